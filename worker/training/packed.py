"""Matrix products with weights in oneDNN's blocked layout, for decoding on a CPU.

With few rows, reading the weights is the bottleneck, and torch's own linear layers convert the weight layout in every
call. Layers with the same input (query, key and value; gate and up) can share one product.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.training.lm_head import Head


class PackedWeight:
    """A weight [O, I] in oneDNN's blocked layout."""

    def __init__(self, weight_O_I: Tensor) -> None:
        # torch.compile uses this op for frozen weights. torch has no public name for it, so torch's version is pinned.
        self._blocked = torch.ops.mkldnn._reorder_linear_weight(weight_O_I, None)
        self._linear = torch.ops.mkldnn._linear_pointwise.default

    def product(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """Returns x W^T + b, [..., O]."""
        y: Tensor = self._linear(x, self._blocked, bias_O, "none", [], "")
        return y


@dataclass(frozen=True)
class PackedHead(Head):
    """An output head whose product uses a packed weight."""

    packed: PackedWeight | None = None

    def product(self, hidden_N_H: Tensor) -> Tensor:
        """Returns h W^T, [N, V]."""
        return super().product(hidden_N_H) if self.packed is None else self.packed.product(hidden_N_H)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Returns whether oneDNN has a packed product for this device and precision."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def joined_bias(biases: Sequence[Tensor | None], sizes: Sequence[int], extra: int = 0) -> Tensor | None:
    """Returns one bias for all layers, with zeros for layers without one and for `extra` further outputs.

    Returns None if no layer has a bias.
    """
    example = next((bias for bias in biases if bias is not None), None)
    if example is None:
        return None
    parts = [example.new_zeros(size) if bias is None else bias for bias, size in zip(biases, sizes, strict=True)]
    return torch.cat([*parts, example.new_zeros(extra)])


@torch.no_grad()
def by_input(layers: Collection[nn.Module], forward: Callable[[], object]) -> list[list[nn.Module]]:
    """Returns the layers that `forward` calls, in its order; consecutive layers with the same input are one group.

    Architectures name their projections differently; object identity of the inputs works for all of them.
    """
    calls: list[tuple[nn.Module, Tensor]] = []  # keeps the inputs alive, so that no two get the same identity

    def record(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        calls.append((layer, arguments[0]))

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(record).remove)
        forward()
    groups: list[list[nn.Module]] = []
    previous = None
    for layer, x in calls:
        if x is previous:
            groups[-1].append(layer)
        else:
            groups.append([layer])
        previous = x
    return groups
