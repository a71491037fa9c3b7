"""Matrix products with weights in oneDNN's blocked layout, for decoding on a CPU.

With few rows, reading the weights is the bottleneck, and torch's own linear layers convert the weight layout in every
call. Layers with the same input (query, key and value; gate and up) can share one product.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from worker.training.lm_head import Head

_MANY_ROWS: Final = 64
_FEW_ROWS: Final = (1, 2, 4)
_COMPARED: Final = 2**17
"""Results that are compared. On an EPYC one in 6,000 differs between a product of one row and one of more."""

_least_rows: dict[tuple[int, int, torch.dtype], int] = {}


class PackedWeight:
    """A weight [O, I] in oneDNN's blocked layout.

    In bf16 the product of a row has the same bits whatever rows are computed along with it, so a greedy answer does not
    depend on the batch: oneDNN adds up a single row in another order, so that it is computed twice.
    """

    def __init__(self, weight_O_I: Tensor) -> None:
        # torch.compile uses this op for frozen weights. torch has no public name for it, so torch's version is pinned.
        self._blocked = torch.ops.mkldnn._reorder_linear_weight(weight_O_I, None)
        self._linear = torch.ops.mkldnn._linear_pointwise.default
        self._least_rows = 1
        if weight_O_I.dtype == torch.bfloat16:
            outputs, inputs = weight_O_I.shape
            shape = (outputs, inputs, weight_O_I.dtype)
            if shape not in _least_rows:
                _least_rows[shape] = self._measure_least_rows(outputs, inputs)
            self._least_rows = _least_rows[shape]

    def product(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """Returns x W^T + b, [..., O]."""
        rows = x.numel() // x.shape[-1]
        if 0 < rows < self._least_rows:
            wide_N_I = x.reshape(rows, -1).repeat(-(-self._least_rows // rows), 1)
            return self._product(wide_N_I, bias_O)[:rows].view(*x.shape[:-1], -1)
        return self._product(x, bias_O)

    def _product(self, x: Tensor, bias_O: Tensor | None) -> Tensor:
        y: Tensor = self._linear(x, self._blocked, bias_O, "none", [], "")
        return y

    def _measure_least_rows(self, outputs: int, inputs: int) -> int:
        """Returns the least number of rows whose product has the bits of one of many rows; 1 if none has."""
        rows = max(8, min(4096, _COMPARED // outputs))
        generator = torch.Generator().manual_seed(0)
        x_N_I = torch.randn(max(rows, _MANY_ROWS), inputs, generator=generator).to(torch.bfloat16)
        expected_N_O = self._product(x_N_I, None)[:rows]
        for count in _FEW_ROWS:
            parts = [self._product(part, None) for part in x_N_I[: max(rows, count)].split(count) if len(part) == count]
            found_N_O = torch.cat(parts)[:rows]
            if torch.equal(found_N_O, expected_N_O[: len(found_N_O)]):
                return count
        return 1


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
