"""A CPU's matrix products while decoding: few rows, so that reading the weights is the cost.

Two things make a step 1.6 to 2 times faster than torch's own products, which lay the weights out anew in each call:
weights that already have oneDNN's layout, and one product for all layers that are handed the same tensor (query, key
and value; gate and up), with their LoRA A matrices as further rows:

    [y | h] = x [W; A]^T,   y += h (s B)^T

The numbers are those of `lora.py`, rounded at the same places. The copies live only while something is sampled.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.training.lm_head import Head
from worker.training.lora import FusedLora, fused_layers
from worker.training.model import Policy


class PackedWeight:
    """A weight [O, I] in oneDNN's layout."""

    def __init__(self, weight_O_I: Tensor) -> None:
        # What torch.compile uses for frozen weights. torch has no public name for it; the version of torch is pinned.
        self._blocked = torch.ops.mkldnn._reorder_linear_weight(weight_O_I, None)

    def product(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """x W^T + b, [..., O]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._blocked, bias_O, "none", [], "")
        return y


class FusedProjections:
    """FusedLora layers that are handed the same tensor one after another; the first one's call computes for all."""

    def __init__(self, layers: Sequence[FusedLora], dtype: torch.dtype) -> None:
        parts = [layer.parts(dtype) for layer in layers]
        self._sizes = [part.weight_O_I.shape[0] for part in parts]
        downs = [part.down_R_I for part in parts if part.down_R_I is not None]
        self._weight = PackedWeight(torch.cat([part.weight_O_I for part in parts] + downs))
        ups = [part.up_O_R for part in parts if part.up_O_R is not None]
        self._up_O_R = torch.block_diag(*ups) if ups else None
        self._bias_O = _joined([part.bias_O for part in parts], self._sizes, extra=sum(len(down) for down in downs))
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def product(self, x: Tensor, index: int) -> Tensor:
        """The output of layer `index` for `x`."""
        if x is not self._input:
            self._input, self._outputs = x, self._all(x)
        return self._outputs[index]

    def _all(self, x: Tensor) -> tuple[Tensor, ...]:
        wide = self._weight.product(x.reshape(-1, x.shape[-1]), self._bias_O)
        y_N_O = wide[:, : sum(self._sizes)]
        if self._up_O_R is not None:
            y_N_O.addmm_(wide[:, y_N_O.shape[1] :], self._up_O_R.T)
        return torch.split(y_N_O.view(*x.shape[:-1], -1), self._sizes, -1)


def _joined(biases: Sequence[Tensor | None], sizes: Sequence[int], extra: int) -> Tensor | None:
    """One bias for all, with zeros where a layer has none and for `extra` further outputs; None if no layer has one."""
    some = next((bias for bias in biases if bias is not None), None)
    if some is None:
        return None
    parts = [some.new_zeros(size) if bias is None else bias for bias, size in zip(biases, sizes, strict=True)]
    return torch.cat([*parts, some.new_zeros(extra)])


@dataclass(frozen=True)
class PackedHead(Head):
    """A head whose product has a packed weight."""

    packed: PackedWeight | None = None

    def product(self, hidden_N_H: Tensor) -> Tensor:
        """h W^T."""
        return super().product(hidden_N_H) if self.packed is None else self.packed.product(hidden_N_H)


class Decoder:
    """Knows which layers of a policy are projections."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._layers_by_input = _layers_by_input(policy) if can_pack(policy) else []

    @contextmanager
    def head(self) -> Iterator[Head]:
        """Within it the policy decodes with packed weights, as its adapter is now; yields the head to use."""
        head = self._policy.head
        if not can_pack(self._policy):
            yield head
            return
        with ExitStack() as restored:
            for layers in self._layers_by_input:
                projections = FusedProjections(layers, head.weight_V_H.dtype)
                for index, layer in enumerate(layers):
                    restored.enter_context(layer.replaced_by(projections.product, index))
            yield PackedHead(head.weight_V_H, head.scale, head.softcap, PackedWeight(head.weight_V_H))


def can_pack(policy: Policy) -> bool:
    """Whether oneDNN has a product for this device and precision."""
    dtype = policy.head.weight_V_H.dtype
    if policy.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.no_grad()
def _layers_by_input(policy: Policy) -> list[list[FusedLora]]:
    """The policy's fused layers in the order of a forward pass, those with the same input together."""
    fused = fused_layers(policy.model)
    calls: list[tuple[FusedLora, Tensor]] = []  # holds the inputs, so that no two have the same identity

    def seen(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        calls.append((fused[layer], arguments[0]))

    with ExitStack() as watched:
        for layer in fused:
            watched.callback(layer.register_forward_pre_hook(seen).remove)
        one = torch.zeros(1, 1, dtype=torch.long, device=policy.device)
        policy.hidden(one, torch.ones_like(one), use_cache=False)
    groups: list[list[FusedLora]] = []
    before = None
    for called, x in calls:
        if x is before:
            groups[-1].append(called)
        else:
            groups.append([called])
        before = x
    return groups
