"""Decoder layers of Llama's form (Llama, Mistral, Qwen 2 and 3, SmolLM) in a third of transformers' operations.

A decoding step is hundreds of small operations, which one thread starts one after another. For hidden states x:

    x += O attention(rotated(Q n), rotated(K n), V n)    with n = norm(x)
    x += D (act(G m) * U m)                              with m = norm(x)

Q, K and V are one product, and so are G and U; queries and keys are rotated together. The arithmetic and its roundings
are those of transformers: a layer is replaced only if both give the same bits for a probe.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from worker.serving.projections import AdaptedLayers
from worker.training.kv import AttentionProbe, LayerAttention

_CHILDREN: Final = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


class Rotation:
    """The rotary position embeddings of one step, which all layers share."""

    def __init__(self) -> None:
        self._sin: Tensor | None = None

    def use(self, cos_1_N_D: Tensor, sin_1_N_D: Tensor) -> None:
        """Set the step's cosines and sines."""
        if sin_1_N_D is self._sin:
            return
        self._sin = sin_1_N_D
        self._cos_N_1_D = cos_1_N_D[0].unsqueeze(1)
        first, second = sin_1_N_D[0].chunk(2, -1)
        self._signed_N_1_D = torch.cat((-first, second), -1).unsqueeze(1)

    def apply(self, x_N_H_D: Tensor) -> Tensor:
        """Return x cos + (-x_2, x_1) sin, where x_1 and x_2 are the halves of each head."""
        other = x_N_H_D.roll(x_N_H_D.shape[2] // 2, 2).mul_(self._signed_N_1_D)
        return (x_N_H_D * self._cos_N_1_D).add_(other)


class Norm:
    """Llama's RMS norm: x / rms(x), rounded, then scaled."""

    def __init__(self, norm: Any, weight: Tensor | None = None) -> None:
        """`weight` replaces the one of the module `norm`."""
        self._weight = norm.weight if weight is None else weight
        self._shape = list(norm.weight.shape)
        self._epsilon = float(norm.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.rms_norm(x, self._shape, None, self._epsilon).mul_(self._weight)


class LlamaLayer:
    """One decoder layer."""

    def __init__(self, layer: Any, adapted: AdaptedLayers, attention: LayerAttention, rotation: Rotation) -> None:
        """Raises `AttributeError` or `KeyError` if the module `layer` has another form."""
        own, mlp = layer.self_attn, layer.mlp
        self._attention, self._rotation = attention, rotation
        self._index = int(own.layer_idx)
        self._rotated_heads = attention.query_heads + attention.shape.heads
        self._qkv = adapted.group_of(own.q_proj, own.k_proj, own.v_proj)
        self._output = adapted.group_of(own.o_proj)
        self._gate_up = adapted.group_of(mlp.gate_proj, mlp.up_proj)
        self._down = adapted.group_of(mlp.down_proj)
        self._activation = mlp.act_fn
        self._before_attention, self._before_mlp = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self._of_heads = None
        if hasattr(own, "q_norm"):  # Qwen 3
            weights = [own.q_norm.weight] * attention.query_heads + [own.k_norm.weight] * attention.shape.heads
            self._of_heads = Norm(own.q_norm, torch.stack(weights))

    def forward(
        self, hidden_states: Tensor, *_: Any, position_embeddings: tuple[Tensor, Tensor], cached: Any, **__: Any
    ) -> Tensor:
        """Return the layer's output [1, N, H] for a packed row of tokens."""
        x_N_H = hidden_states.squeeze(0)
        rows = x_N_H.shape[0]
        attention, queries, rotated = self._attention, self._attention.query_heads, self._rotated_heads
        qkv = self._qkv.joined(self._before_attention(x_N_H)).view(rows, -1, attention.shape.key_width)
        qk = qkv[:, :rotated] if self._of_heads is None else self._of_heads(qkv[:, :rotated])
        self._rotation.use(*position_embeddings)
        qk = self._rotation.apply(qk)
        found = cached.attend_rows(
            self._index, qk[:, :queries], qk[:, queries:], qkv[:, rotated:], attention.window, attention.options
        )
        x_N_H = self._output.joined(found.reshape(rows, -1)).add_(x_N_H)
        gate, up = self._gate_up.joined(self._before_mlp(x_N_H)).chunk(2, -1)
        return self._down.joined(self._activation(gate).mul_(up)).add_(x_N_H).unsqueeze(0)


def replace_layers(causal: Any, adapted: AdaptedLayers, probe: AttentionProbe, forward: Callable[[], object]) -> int:
    """Replace the layers of Llama's form; returns their number.

    `forward` computes several tokens with `probe`, which has seen all layers.
    """
    rotation = Rotation()
    replaced: list[LlamaLayer] = []
    compared = []
    for layer in causal.modules():
        if {name for name, _ in layer.named_children()} != _CHILDREN:
            continue
        try:
            short = LlamaLayer(layer, adapted, probe.layers[int(layer.self_attn.layer_idx)], rotation)
        except (AttributeError, KeyError):
            continue
        layer.forward = partial(_compare, layer.forward, short, replaced)
        compared.append((layer, short))
    forward()
    for layer, short in compared:
        del layer.forward  # the method of its class is back
        if short in replaced:
            layer.forward = short.forward
    return len(replaced)


def _compare(own: Any, short: LlamaLayer, same: list[LlamaLayer], hidden_states: Tensor, **options: Any) -> Any:
    """Returns the output of `own`; adds `short` to `same` if it gives the same bits."""
    expected = own(hidden_states, **options)
    try:
        found = short.forward(hidden_states, **options)
    except (RuntimeError, TypeError):  # other shapes or arguments
        return expected
    if isinstance(expected, Tensor) and torch.equal(found, expected):
        same.append(short)
    return expected
