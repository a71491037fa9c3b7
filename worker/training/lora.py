"""A fused LoRA product in the base model's precision, for the adapters that PEFT builds: two matrix calls each way.

    y = x W^T + b + s (x A^T) B^T

PEFT's own forward casts x to the adapter's fp32 and back, and saves three more tensors of the size of x and y for the
backward pass. This one saves x and x A^T only. Parameters and file format stay PEFT's, and so does everything unusual
(DoRA, dropout, quantised base models).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from worker.training.recompute import rebuild_plan


def _product(
    x: Tensor, weight_O_I: Tensor, bias_O: Tensor | None, down_R_I: Tensor, up_O_R: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns y = x W^T + b + h (s B)^T, [..., O], and h = x A^T, [N, R], with `down` = A and `up` = s B.

    y is no view of another tensor: some architectures change the outputs of their projections in place, which autograd
    forbids for a view that a custom function returns.
    """
    hidden_N_R = x.reshape(-1, x.shape[-1]) @ down_R_I.T
    y = functional.linear(x, weight_O_I, bias_O)
    y.view(-1, y.shape[-1]).addmm_(hidden_N_R, up_O_R.T)
    return y, hidden_N_R


class _LoraProduct(torch.autograd.Function):
    """The product with its gradient. W and b are frozen and get none.

    With g = dL/dy and h = x A^T:

        dL/dx = g W + (g s B) A        dL/dA = (g s B)^T x        dL/dB = s g^T h
    """

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        weight_O_I: Tensor,
        bias_O: Tensor | None,
        a_R_I: Tensor,
        b_O_R: Tensor,
        cast: tuple[Tensor, Tensor, float],
        plan_for_x: tuple[Callable[[Sequence[Tensor]], Tensor], tuple[Tensor, ...]],
    ) -> Tensor:
        # A and B are arguments only so that autograd asks for their gradient; the product uses the cast copies.
        down_R_I, up_O_R, scaling = cast
        y, hidden_N_R = _product(x, weight_O_I, bias_O, down_R_I, up_O_R)
        # If x is itself recomputed (a norm's output), save the inputs that rebuild it instead of x.
        context.rebuild_x, saved = plan_for_x
        context.save_for_backward(hidden_N_R, weight_O_I, down_R_I, up_O_R, *saved)
        context.scaling = scaling
        context.dtypes = a_R_I.dtype, b_O_R.dtype
        return y

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None]:
        hidden_N_R, weight_O_I, down_R_I, up_O_R, *saved = context.saved_tensors
        x_N_I = context.rebuild_x(saved).reshape(-1, weight_O_I.shape[1])
        gradient_N_O = gradients[0].reshape(-1, weight_O_I.shape[0])
        hidden_gradient_N_R = gradient_N_O @ up_O_R  # g s B
        x_gradient = None
        if context.needs_input_grad[0]:
            x_gradient = (gradient_N_O @ weight_O_I).addmm_(hidden_gradient_N_R, down_R_I)
            x_gradient = x_gradient.view(*gradients[0].shape[:-1], -1)
        a_dtype, b_dtype = context.dtypes
        a_gradient = (hidden_gradient_N_R.T @ x_N_I).to(a_dtype)
        b_gradient = (gradient_N_O.T @ hidden_N_R).to(b_dtype) * context.scaling  # h has no s, so multiply by it here
        return x_gradient, None, None, a_gradient, b_gradient, None, None


class LoraMatrices(NamedTuple):
    """The matrices of one layer. A and s B are in the base model's precision, and None while the adapter is off."""

    weight_O_I: Tensor
    bias_O: Tensor | None
    down_R_I: Tensor | None
    """A."""
    up_O_R: Tensor | None
    """s B."""


class FusedLora:
    """A PEFT layer's forward pass, fused.

    Caches the adapter in the base model's precision until the adapter changes.
    """

    def __init__(self, layer: LoraLinear, adapter: str) -> None:
        self._layer = layer
        self._adapter = adapter
        self._unfused = layer.forward
        self._cast: tuple[tuple[int, int], tuple[Tensor, Tensor, float]] | None = None
        self._replacement: tuple[Callable[[Tensor, int], Tensor], int] | None = None

    @contextmanager
    def replaced_by(self, product: Callable[[Tensor, int], Tensor], index: int) -> Iterator[None]:
        """Makes `product(x, index)` this layer's output within the block."""
        self._replacement = product, index
        try:
            yield
        finally:
            self._replacement = None

    def matrices(self, dtype: torch.dtype) -> LoraMatrices:
        """Returns the matrices that the layer uses for inputs of `dtype`."""
        layer, adapter = self._layer, self._adapter
        base: Any = layer.get_base_layer()
        if layer.disable_adapters:
            return LoraMatrices(base.weight, base.bias, None, None)
        a: Any = layer.lora_A[adapter].weight
        b: Any = layer.lora_B[adapter].weight
        down_R_I, up_O_R, _ = self._in_precision(dtype, a, b)
        return LoraMatrices(base.weight, base.bias, down_R_I, up_O_R)

    def __call__(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if self._replacement is not None:
            product, index = self._replacement
            return product(x, index)
        layer, adapter = self._layer, self._adapter
        if layer.disable_adapters or layer.merged:
            unfused: Tensor = self._unfused(x, *arguments, **options)
            return unfused
        base: Any = layer.get_base_layer()
        a: Any = layer.lora_A[adapter].weight
        b: Any = layer.lora_B[adapter].weight
        cast = self._in_precision(x.dtype, a, b)
        if not torch.is_grad_enabled():  # sampling skips autograd's bookkeeping
            return _product(x, base.weight, base.bias, cast[0], cast[1])[0]
        result: Tensor = _LoraProduct.apply(x, base.weight, base.bias, a, b, cast, rebuild_plan(x))
        return result

    def _in_precision(self, dtype: torch.dtype, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, float]:
        """Returns A, s B and s; A and s B in `dtype`, from the cache if the adapter has not changed."""
        # torch increments `_version` at each in-place change: by the optimiser, and by a restored checkpoint.
        versions = a._version, b._version
        if self._cast is None or self._cast[0] != versions or self._cast[1][0].dtype != dtype:
            scaling = self._layer.scaling[self._adapter]
            with torch.no_grad():
                self._cast = versions, (a.detach().to(dtype), (b.detach() * scaling).to(dtype), scaling)
        return self._cast[1]


def fuse(model: nn.Module, adapter: str = "default") -> int:
    """Fuses every plain LoRA layer of a PEFT model in place and returns the number of fused layers."""
    fused = 0
    for layer in list(model.modules()):
        if type(layer) is LoraLinear and _is_plain(layer, adapter):
            layer.forward = FusedLora(layer, adapter)  # type: ignore[method-assign] # shadowing it is the point
            fused += 1
    return fused


def unfuse(model: nn.Module) -> None:
    """Restores PEFT's own forward pass of every fused layer."""
    for layer in fused_layers(model):
        del layer.forward


def fused_layers(model: nn.Module) -> dict[nn.Module, FusedLora]:
    """Returns the layers that `fuse` changed, with their fused forward pass."""
    return {layer: layer.forward for layer in model.modules() if isinstance(layer.forward, FusedLora)}


def _is_plain(layer: LoraLinear, adapter: str) -> bool:
    base = layer.get_base_layer()
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and adapter in layer.lora_A
        and adapter not in layer.lora_variant
        and isinstance(layer.lora_dropout[adapter], nn.Identity)
        and layer.lora_B[adapter].bias is None
    )
