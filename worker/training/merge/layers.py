"""Merging one LoRA layer into its base weight: in fp32, verified there, then rounded once to the weight's dtype."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from peft.tuners.lora.layer import Embedding as LoraEmbedding
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from worker.training.merge.report import MergeRefused

_TOLERANCE: Final = 1e-3
"""Allowed error, relative to the adapter's share of a layer's output; fp32 stays below 1e-5."""
_NOISE: Final = 1e-5
"""Allowed fp32 noise, relative to the layer's output, where the adapter changes almost nothing."""


@dataclass
class Rounding:
    """Rounding over all layers: D = W' - W is the change of a weight, D^ = round(W') - W what rounding leaves of it."""

    layers: int = 0
    wanted: float = 0.0
    """Sum of D D."""
    kept: float = 0.0
    """Sum of D^ D."""
    error: float = 0.0
    """Sum of (D^ - D)^2."""

    def add(self, weight: Tensor, merged: Tensor, rounded: Tensor) -> None:
        """Adds one layer: its weight before the merge, after it in fp32, and after rounding."""
        change, left = merged - weight, rounded.float() - weight
        self.layers += 1
        self.wanted += float((change * change).sum(dtype=torch.float64))
        self.kept += float((left * change).sum(dtype=torch.float64))
        self.error += float((left - change).square().sum(dtype=torch.float64))

    @property
    def survival(self) -> float:
        """Share of the change that survives, along its own direction: <D^, D> / <D, D>. 1 is all of it, 0 nothing."""
        return self.kept / self.wanted if self.wanted else 1.0

    @property
    def relative_error(self) -> float:
        """Norm of the rounding error over the norm of the change."""
        return (self.error / self.wanted) ** 0.5 if self.wanted else 0.0


def layers_of(model: nn.Module) -> dict[str, Any]:
    """Returns the layers with an adapter by name. Raises `MergeRefused` for a layer type that cannot be merged."""
    layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }
    for name, layer in layers.items():
        kind = type(layer)
        weight = layer.get_param() if kind is ParamWrapper else layer.get_base_layer().weight
        if kind not in (LoraLinear, LoraEmbedding, ParamWrapper) or not weight.is_floating_point():
            raise MergeRefused(f"{name} is a layer of type {kind.__name__}, which cannot be merged.")
    return layers


@torch.no_grad()
def merge_layer(name: str, layer: Any, rounding: Rounding) -> None:
    """Replaces the base weight of `layer` by the merged weight, with PEFT's own formula (LoRA, DoRA, rsLoRA).

    Raises `MergeRefused` if the merged layer's output differs from the unmerged layer's, or is not finite.
    """
    base = layer.get_base_layer()
    parameter = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
    before = getattr(base, parameter).detach()
    # Create new parameters, so that an output head that shares the embedding's weight keeps the old one.
    for label, value in list(base.named_parameters(recurse=False)):
        setattr(base, label, nn.Parameter(value.detach().to(torch.float32, copy=True), requires_grad=False))
    without_adapter, expected, merged_output = (
        _parameter_outputs(layer) if isinstance(layer, ParamWrapper) else _layer_outputs(layer)
    )
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:  # the merged weights are not finite
        raise MergeRefused(f"{name} has NaN or infinite weights once merged: the adapter is broken.") from error
    allowed = _TOLERANCE * (expected - without_adapter).norm() + _NOISE * without_adapter.norm()
    if not (merged_output() - expected).norm() <= allowed:
        raise MergeRefused(f"{name} has a different output once merged. Nothing was written.")
    merged = getattr(base, parameter).detach()
    for label, value in list(base.named_parameters(recurse=False)):
        setattr(base, label, nn.Parameter(value.detach().to(before.dtype), requires_grad=False))
    rounding.add(before.float(), merged, getattr(base, parameter).detach())


def _layer_outputs(layer: Any) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
    """Returns outputs without and with the adapter, and a function for the output after the merge."""
    base, inputs = layer.get_base_layer(), _inputs(layer)
    return base(inputs), layer(inputs), lambda: base(inputs)


def _parameter_outputs(layer: Any) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
    """Returns the same for a parameter, [O, I] or of experts [E, O, I]: products of random rows with it.

    W' = W + s L R, so x W' = x W + s (x L) R.
    """
    [adapter] = layer.active_adapters
    if layer.get_param().dim() == 2:
        left, right, scale = layer.lora_B[adapter].weight, layer.lora_A[adapter].weight, layer.scaling[adapter]
    else:
        left, right, scale = layer.get_delta_factors(adapter)
    weight = layer.get_param()
    x = torch.randn(16, weight.shape[-2], generator=torch.Generator().manual_seed(0))
    without_adapter = x @ weight
    return without_adapter, without_adapter + scale * (x @ left) @ right, lambda: x @ layer.get_param()


def _inputs(layer: Any) -> Tensor:
    random = torch.Generator().manual_seed(0)
    if isinstance(layer, LoraEmbedding):
        rows: Any = layer.get_base_layer()
        return torch.randint(rows.num_embeddings, (16,), generator=random)
    return torch.randn(16, layer.in_features, generator=random)
