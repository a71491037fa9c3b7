"""Merges one LoRA layer into its base weight: in fp32, checked there, and rounded once to the weight's dtype."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from peft.tuners.lora.layer import Embedding as LoraEmbedding
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from worker.training.merge.report import MergeRefused

_TOLERANCE: Final = 1e-3
"""Of the adapter's share of a layer's output; fp32 stays below 1e-5 of it."""
_NOISE: Final = 1e-5
"""Of the layer's output: what fp32 may add where the adapter does next to nothing."""


@dataclass
class Rounding:
    """What rounding made of the change D = W' - W of all weights: D^ = round(W') - W."""

    layers: int = 0
    wanted: float = 0.0
    """Sum of D D."""
    kept: float = 0.0
    """Sum of D^ D."""
    error: float = 0.0
    """Sum of (D^ - D)^2."""

    def add(self, weight: Tensor, merged: Tensor, rounded: Tensor) -> None:
        """Counts one layer: the weight before, after in fp32, and after rounding."""
        change, found = merged - weight, rounded.float() - weight
        self.layers += 1
        self.wanted += float((change * change).sum(dtype=torch.float64))
        self.kept += float((found * change).sum(dtype=torch.float64))
        self.error += float((found - change).square().sum(dtype=torch.float64))

    @property
    def survival(self) -> float:
        """Share of the change that is still there, along its own direction: 1 is all of it, 0 is nothing."""
        return self.kept / self.wanted if self.wanted else 1.0

    @property
    def relative_error(self) -> float:
        """Size of the rounding's error beside the size of the change."""
        return (self.error / self.wanted) ** 0.5 if self.wanted else 0.0


def layers_of(model: nn.Module) -> dict[str, Any]:
    """The layers that carry an adapter, by name. Raises `MergeRefused` for a kind that cannot be merged."""
    found: dict[str, Any] = {name: one for name, one in model.named_modules() if isinstance(one, BaseTunerLayer)}
    for name, layer in found.items():
        kind = type(layer)
        if kind not in (LoraLinear, LoraEmbedding) or not layer.get_base_layer().weight.is_floating_point():
            raise MergeRefused(f"{name} is a layer of kind {kind.__name__}, which cannot be merged.")
    return found


@torch.no_grad()
def merge_layer(name: str, layer: Any, rounding: Rounding) -> None:
    """Replaces the weight below `layer` by the merged one, by PEFT's own formula, DoRA and rsLoRA included.

    Raises `MergeRefused` when the merged layer computes something else than the unmerged one.
    """
    base = layer.get_base_layer()
    dtype = base.weight.dtype
    before = base.weight.detach()
    # New parameters: a head that shares the embedding's weight keeps the old one.
    for label, value in list(base.named_parameters(recurse=False)):
        setattr(base, label, nn.Parameter(value.detach().to(torch.float32, copy=True), requires_grad=False))
    inputs = _inputs(layer)
    alone, expected = base(inputs), layer(inputs)
    layer.merge(safe_merge=True)
    found = base(inputs)
    allowed = _TOLERANCE * (expected - alone).norm() + _NOISE * alone.norm()
    if not (found - expected).norm() <= allowed:
        raise MergeRefused(f"{name} computes something else once merged; nothing was written.")
    merged = base.weight.detach()
    for label, value in list(base.named_parameters(recurse=False)):
        setattr(base, label, nn.Parameter(value.detach().to(dtype), requires_grad=False))
    rounding.add(before.float(), merged, base.weight.detach())


def _inputs(layer: Any) -> Tensor:
    random = torch.Generator().manual_seed(0)
    if isinstance(layer, LoraEmbedding):
        rows: Any = layer.get_base_layer()
        return torch.randint(rows.num_embeddings, (16,), generator=random)
    return torch.randn(16, layer.in_features, generator=random)
