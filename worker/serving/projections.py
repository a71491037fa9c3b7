"""The linear layers of a base model, with the adapters of a batch applied row by row.

Layers with the same input are one product with the base weights, packed once. The adapters of a batch are stacked, so
the number of kernels does not grow with the number of adapters:

    y = x W^T + b,   h = x [A_1; A_2; ...]^T,   h = 0 in the columns of other rows' adapters,   y += h [s_1 B_1 ...]^T

Results are those of `worker/training/lora.py`, rounded at the same places. With DoRA (Liu et al., arXiv 2402.09353) y
without its bias is then scaled by m / ||W + s B A|| per output.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from worker.serving.adapters import Adapter, LowRank
from worker.serving.errors import RequestError, invalid
from worker.training.packed import PackedWeight, by_input, joined_bias

_STACKS_KEPT: Final = 16
_UNPACKED_ROWS: Final = 1024


class _Bound(NamedTuple):
    """One adapter's part of a group of layers, in the base model's precision; R is the rank of all its layers."""

    down_R_I: Tensor
    up_O_R: Tensor
    """s B of each layer, block by block."""
    scale_O: Tensor | None
    """m / ||W + s B A|| with DoRA."""


class _Stack(NamedTuple):
    """Several adapters' parts of one group of layers."""

    down: Any
    """A of all adapters, [R, I], packed or plain."""
    up_O_R: Tensor
    owners: tuple[int, ...]
    """The rank of each adapter here: equal owners have equal masks."""
    scale_A_O: Tensor | None
    """Row 0 is the base model."""


class BatchAdapters:
    """The adapters of a step's rows: number 0 is the base model, number i the i-th adapter."""

    def __init__(self, number_N: Tensor | None) -> None:
        """`number_N` is None if all rows use the one adapter."""
        self.number_N = number_N
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def mask(self, owners: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """Returns 1 where a column of h belongs to the row's adapter and 0 elsewhere, [N, R]."""
        if self.number_N is None:
            return None
        if owners not in self._masks:
            device = self.number_N.device
            columns = torch.tensor(
                [number + 1 for number, rank in enumerate(owners) for _ in range(rank)], device=device
            )
            self._masks[owners] = (self.number_N[:, None] == columns).to(dtype)
        return self._masks[owners]


class Weight:
    """W [O, I] and b of layers with the same input."""

    def __init__(self, weight_O_I: Tensor, bias_O: Tensor | None, *, pack: bool) -> None:
        self.outputs, self.inputs = weight_O_I.shape
        self.dtype, self.device = weight_O_I.dtype, weight_O_I.device
        self.bias_O = bias_O
        self._packed = PackedWeight(weight_O_I) if pack else None
        self._plain_O_I = None if pack else weight_O_I

    def product(self, x_N_I: Tensor, *, with_bias: bool = True) -> Tensor:
        """Returns x W^T + b, [N, O]."""
        bias_O = self.bias_O if with_bias else None
        if self._packed is not None:
            return self._packed.product(x_N_I, bias_O)
        assert self._plain_O_I is not None  # noqa: S101 - for the type checker: one of the two is set
        return nn.functional.linear(x_N_I, self._plain_O_I, bias_O)

    def unpacked(self) -> Tensor:
        """Returns W. A packed weight cannot be read, but its product with the unit matrix is exact."""
        if self._plain_O_I is not None:
            return self._plain_O_I
        units = torch.eye(self.inputs, dtype=self.dtype).split(_UNPACKED_ROWS)
        return torch.cat([self.product(part, with_bias=False) for part in units]).T


class Projections:
    """Layers that receive the same tensor in a row, such as q, k and v. The first layer's call computes all outputs."""

    def __init__(self, paths: list[str], layers: list[Any], *, pack: bool) -> None:
        self.paths = paths
        weights = [_weight_of(layer) for layer in layers]
        self.sizes = [len(weight) for weight in weights]
        bias_O = joined_bias([getattr(layer, "bias", None) for layer in layers], self.sizes)
        self.weight = Weight(torch.cat(weights), bias_O, pack=pack)
        self.stack: _Stack | None = None
        self.batch: BatchAdapters | None = None
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()
        for index, layer in enumerate(layers):
            layer.forward = partial(self._product, index)
            # Frees the weight; its shape and dtype stay readable.
            layer.weight = nn.Parameter(layer.weight.to("meta"), requires_grad=False)

    def bind(self, adapter: Adapter) -> _Bound | None:
        """Returns the adapter's part of this group, None if it has none. Raises `RequestError` if shapes differ."""
        found = [adapter.layers.get(path) for path in self.paths]
        if not any(found):
            return None
        for path, size, change in zip(self.paths, self.sizes, found, strict=True):
            if change and (change.down_R_I.shape[1], len(change.up_O_R)) != (self.weight.inputs, size):
                raise invalid(
                    f"Adapter '{adapter.name}' does not fit base model '{adapter.base}': {path} has another shape.",
                    "model",
                    "unsupported_adapter",
                )
        where: dict[str, Any] = {"device": self.weight.device, "dtype": self.weight.dtype}
        downs = [change.down_R_I.to(**where) for change in found if change]
        ups = [
            torch.zeros(size, 0, **where) if change is None else (change.up_O_R * change.scaling).to(**where)
            for size, change in zip(self.sizes, found, strict=True)
        ]
        return _Bound(torch.cat(downs), torch.block_diag(*ups), self._dora_scale(found))

    def _dora_scale(self, found: "list[LowRank | None]") -> Tensor | None:
        if not any(change is not None and change.magnitude_O is not None for change in found):
            return None
        scales = []
        for weight_O_I, change in zip(self.weight.unpacked().split(self.sizes), found, strict=True):
            if change is None or change.magnitude_O is None:
                scales.append(torch.ones(len(weight_O_I), device=weight_O_I.device))
                continue
            down, up, magnitude_O = (
                each.to(device=weight_O_I.device, dtype=torch.float32)
                for each in (change.down_R_I, change.up_O_R, change.magnitude_O)
            )
            scales.append(magnitude_O / torch.linalg.norm(weight_O_I.float() + change.scaling * (up @ down), dim=1))
        return torch.cat(scales).to(self.weight.dtype)

    def stacked(self, parts: "list[_Bound | None]", *, pack: bool) -> _Stack | None:
        """Returns the parts of several adapters as one."""
        present = [part for part in parts if part is not None]
        if not present:
            return None
        down_R_I = torch.cat([part.down_R_I for part in present])
        scale_A_O = None
        if any(part.scale_O is not None for part in present):
            ones_O = torch.ones(self.weight.outputs, dtype=self.weight.dtype, device=self.weight.device)
            rows = [None, *parts]
            scale_A_O = torch.stack([ones_O if row is None or row.scale_O is None else row.scale_O for row in rows])
        return _Stack(
            PackedWeight(down_R_I) if pack else down_R_I,
            torch.cat([part.up_O_R for part in present], 1),
            tuple(0 if part is None else len(part.down_R_I) for part in parts),
            scale_A_O,
        )

    def _product(self, index: int, x: Tensor) -> Tensor:
        if x is not self._input:  # the first layer of the group computes, the others read
            self._input, self._outputs = x, self._compute(x)
        output = self._outputs[index]
        if index == len(self.paths) - 1:  # keep no activations after the step
            self._input, self._outputs = None, ()
        return output

    def joined(self, x_N_I: Tensor) -> Tensor:
        """Returns the outputs of all layers side by side, [N, O], as a new tensor."""
        if self.stack is None or self.batch is None:
            return self.weight.product(x_N_I)
        return self._adapted(x_N_I, self.stack, self.batch)

    def _compute(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(self.joined(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1), self.sizes, -1)

    def _adapted(self, x_N_I: Tensor, stack: _Stack, batch: BatchAdapters) -> Tensor:
        y_N_O = self.weight.product(x_N_I, with_bias=stack.scale_A_O is None)
        hidden_N_R = stack.down.product(x_N_I) if isinstance(stack.down, PackedWeight) else x_N_I @ stack.down.T
        mask_N_R = batch.mask(stack.owners, hidden_N_R.dtype)
        if mask_N_R is not None:
            hidden_N_R *= mask_N_R
        y_N_O.addmm_(hidden_N_R, stack.up_O_R.T)
        if stack.scale_A_O is not None:
            y_N_O *= stack.scale_A_O[1] if batch.number_N is None else stack.scale_A_O[batch.number_N]
            if self.weight.bias_O is not None:
                y_N_O += self.weight.bias_O
        return y_N_O


class AdaptedLayers:
    """All linear layers of a base model below its output head."""

    def __init__(self, causal: Any, forward: Any, *, pack: bool) -> None:
        """Replaces the forward passes of the layers that `forward` calls, and frees their weights."""
        self._pack = pack
        head: Any = causal.get_output_embeddings()
        paths = {
            layer: path
            for path, layer in causal.named_modules()
            if type(layer) in (nn.Linear, Conv1D) and layer is not head
        }
        self._groups: dict[tuple[Any, ...], Projections] = {
            tuple(group): Projections([paths[layer] for layer in group], group, pack=pack)
            for group in by_input(paths, forward)
        }
        self.groups = list(self._groups.values())
        self._paths = frozenset(path for group in self.groups for path in group.paths)
        self._stacks: OrderedDict[tuple[Adapter, ...], list[_Stack | None]] = OrderedDict()

    def group_of(self, *layers: Any) -> Projections:
        """Return the projections that are exactly these layers. Raises `KeyError` if these do not form a group."""
        return self._groups[layers]

    def bind(self, adapter: Adapter) -> None:
        """Prepare an adapter for its use. Raises `RequestError` if it does not fit."""
        if self in adapter.bound:
            return
        if unknown := sorted(set(adapter.layers) - self._paths):
            raise RequestError(
                400,
                "unsupported_adapter",
                f"Adapter '{adapter.name}' does not fit base model '{adapter.base}', which has no linear layer "
                f"{unknown[0]}.",
                "model",
            )
        adapter.bound.clear()
        adapter.bound[self] = [group.bind(adapter) for group in self.groups]

    def use(self, rows: "Iterable[tuple[Adapter | None, int]]") -> None:
        """Set the adapters of the next forward pass: for each part of the packed row, its adapter and its tokens."""
        rows = list(rows)
        adapters = sorted({adapter for adapter, _ in rows if adapter is not None}, key=lambda adapter: adapter.name)
        if not adapters:
            self._set([None] * len(self.groups), None)
            return
        stacks = self._stacked(tuple(adapters))
        numbers: Mapping[Adapter | None, int] = {None: 0} | {each: i + 1 for i, each in enumerate(adapters)}
        number_N = None
        if len({adapter for adapter, _ in rows}) > 1:
            counts = [(numbers[adapter], tokens) for adapter, tokens in rows]
            number_N = torch.tensor(
                [number for number, tokens in counts for _ in range(tokens)], device=self.groups[0].weight.device
            )
        self._set(stacks, BatchAdapters(number_N))

    def _set(self, stacks: "list[_Stack | None]", batch: BatchAdapters | None) -> None:
        for group, stack in zip(self.groups, stacks, strict=True):
            group.stack, group.batch = stack, batch

    def _stacked(self, adapters: tuple[Adapter, ...]) -> "list[_Stack | None]":
        if adapters in self._stacks:
            self._stacks.move_to_end(adapters)
            return self._stacks[adapters]
        parts = [adapter.bound[self] for adapter in adapters]
        self._stacks[adapters] = [
            group.stacked([part[index] for part in parts], pack=self._pack) for index, group in enumerate(self.groups)
        ]
        if len(self._stacks) > _STACKS_KEPT:
            self._stacks.popitem(last=False)
        return self._stacks[adapters]

    def forget(self, adapter: Adapter) -> None:
        """Drop what is kept for an adapter that is unloaded."""
        adapter.bound.clear()
        for adapters in [adapters for adapters in self._stacks if adapter in adapters]:
            del self._stacks[adapters]


def _weight_of(layer: Any) -> Tensor:
    """Returns W [O, I]; GPT-2's layers store its transpose."""
    weight: Tensor = layer.weight.detach()
    return weight.T.contiguous() if isinstance(layer, Conv1D) else weight
