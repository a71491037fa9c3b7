"""A frozen base model that is sharded over the ranks with FSDP2, and the lockstep in which they use it.

Each block of the model is one unit of `fully_shard`: a rank holds a slice of every weight, and all ranks gather a
block's weights for its forward pass and again for its backward pass. The adapter stays whole on every rank, and so do
optimiser, checkpoints and the sum of gradients.

Only the weights that belong to no block are whole for longer, from the first pass of a lockstep to its end: norms, the
output head, and the embedding if it shares its weights with the head. That is why code outside of the model's own
forward pass (the chunked head, the sampler) finds the head whole.

Gathering is collective, so all ranks must make the same passes in the same order, although they have different numbers
of micro-batches and of tokens to sample. Before each pass the ranks agree on the kind of the next one; a rank without
work of that kind makes the pass with a single token and multiplies its result by 0.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import partial, wraps
from typing import Any, Final

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from app.core.plurals import plural
from app.core.spec.reports import Message, TrainerExit
from app.core.spec.sharding import Sharding, is_sharded
from worker.training.distributed import PeerLost, Ranks, lost_peers
from worker.training.heap import return_large_blocks
from worker.training.types import JobFailure

PARAM: Final = "method.hyperparameters.sharding"


def may_shard(wanted: Sharding, ranks: Ranks, device: torch.device) -> bool:
    """Returns whether a base model may have to be sharded. Raises `JobFailure` if that is required but impossible."""
    if wanted == "full" and ranks.size == 1:
        raise _refused(
            "that takes two processes or more, and the job trains with one. Set resources.gpus to at least 2, or "
            "hyperparameters.sharding to 'auto'."
        )
    return ranks.size > 1 and (wanted == "full" or (wanted == "auto" and device.type == "cuda"))


def base_bytes(base: nn.Module) -> int:
    """Returns the bytes of the frozen parameters of `base` that this process holds now."""
    frozen = (value for value in base.parameters() if not value.requires_grad)
    return sum(value.to_local().nbytes if isinstance(value, DTensor) else value.nbytes for value in frozen)


def needs_sharding(wanted: Sharding, ranks: Ranks, device: torch.device, base: nn.Module) -> bool:
    """Returns whether the ranks share the weights of `base`: the same on all of them. Raises `PeerLost`."""
    gpu_bytes = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    return bool(ranks.maximum(is_sharded(wanted, ranks.size, base_bytes(base), gpu_bytes)))


class _Turn(IntEnum):
    """What a rank wants to do next. The highest wish of all ranks is what all of them do."""

    end = 0
    backward = 1
    forward = 2


class _Root(nn.Module):
    """Runs a function as a forward pass of the whole model.

    The trunk cannot be FSDP's root: a head outside of it may share the embedding's weights, and both must be in one
    unit.
    """

    def __init__(self, causal: nn.Module) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


class ShardedBase:
    """The base model of a policy, sharded over `ranks`. Every pass must be within `lockstep`."""

    def __init__(self, model: PeftModel, device: torch.device, ranks: Ranks, idle: Callable[[], Tensor]) -> None:
        """Shards the frozen weights of `model` in place and moves them to `device`, one block at a time.

        `idle` makes a pass of one token and returns some of its results. Raises `JobFailure` for a model or a version
        of torch that cannot be sharded.
        """
        causal: Any = model.get_base_model()
        blocks = _blocks(causal)
        _check(blocks)
        self._ranks = ranks
        self._idle = idle
        self._is_open = False
        self._is_inside = False
        self._gradients = False
        self._passes = 0
        self._idle_results: list[Tensor] = []
        if device.type == "cpu":
            return_large_blocks()
        self.total_bytes = base_bytes(causal)
        """Bytes of the whole base model."""
        trained = {value for value in model.parameters() if value.requires_grad}
        for value in trained:
            value.data = value.data.to(device)
        mesh = init_device_mesh(device.type, (ranks.size,))
        shard: Any = partial(fully_shard, mesh=mesh, ignored_params=trained)
        for block in blocks:
            shard(block, reshard_after_forward=True)
        embedding, head = causal.get_input_embeddings(), causal.get_output_embeddings()
        if embedding.weight is not getattr(head, "weight", None):
            shard(embedding, reshard_after_forward=True)
        self._root: Any = shard(_Root(causal))  # FSDP keeps a root whole after its forward pass
        self._block_of = {module: block for block in blocks for module in block.modules()}
        self.own_bytes = base_bytes(causal)
        """Bytes that this rank holds between two passes."""
        trunk = causal.base_model
        trunk.forward = self._within_root(trunk.forward)

    @contextmanager
    def lockstep(self, *, gradients: bool) -> Iterator[None]:
        """Makes all ranks pass through the model together until all have reached the end of the block.

        All ranks must enter the same blocks. `gradients` says whether the passes of the block have backward passes. A
        block within another one is part of it. Raises `PeerLost`.
        """
        if self._is_open:
            yield
            return
        self._is_open, self._gradients, self._passes = True, gradients, 0
        try:
            yield
            self._await_turn(_Turn.end)
        except PeerLost:
            raise  # no rank is left to agree with
        except BaseException:
            self._reset()
            raise
        else:
            self._reset()
        finally:
            self._is_open = False
            self._idle_results.clear()

    def backward(self, loss: Tensor) -> None:
        """Makes the backward pass from `loss`, a scalar. Raises `PeerLost`."""
        self._await_turn(_Turn.backward)
        self._backward(loss)

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """Gathers the weights of the block around `module` for the `with` block, on all ranks. Raises `PeerLost`."""
        block: Any = self._block_of.get(module)
        if block is None:
            yield
            return
        with lost_peers():
            block.unshard()
        try:
            yield
        finally:
            block.reshard()

    def _within_root(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `forward` as a pass of all ranks through the root."""

        @wraps(forward)
        def together(*arguments: Any, **options: Any) -> Any:
            if not self._is_open:
                raise RuntimeError("a pass through a sharded model outside of `lockstep`: other ranks do not join it")
            if not self._is_inside:
                self._await_turn(_Turn.forward)
            self._passes += 1
            with lost_peers():
                return self._root(partial(forward, *arguments, **options))

        return together

    def _await_turn(self, wanted: _Turn) -> None:
        """Joins the passes of the other ranks until it is the turn of `wanted`, for all ranks."""
        while (turn := self._ranks.maximum(wanted)) != wanted:
            if turn == _Turn.backward:
                self._backward(None)
            else:
                self._is_inside = True
                try:
                    with torch.set_grad_enabled(self._gradients):
                        self._idle_results.append(self._idle())
                finally:
                    self._is_inside = False

    def _backward(self, loss: Tensor | None) -> None:
        # Not 0 x the result: that is NaN for a token that cannot be.
        terms = [0.0 * result.nan_to_num(0.0, 0.0, 0.0).sum() for result in self._idle_results]
        self._idle_results.clear()
        total = sum(terms, start=torch.zeros(())) if loss is None else sum(terms, start=loss)
        with lost_peers():
            total.backward()

    def _reset(self) -> None:
        """Frees what is whole, and FSDP's records of passes that have no backward pass."""
        if self._passes:
            self._root.reset_iter_state()


def report_sharding(
    sharded: ShardedBase | None,
    base: nn.Module,
    wanted: Sharding,
    ranks: Ranks,
    report: Callable[[Message], None],
) -> None:
    """Reports the bytes of the base model that each process holds, if there are several."""
    if ranks.size == 1:
        return
    if sharded is None:
        own = total = base_bytes(base)
        held = f"the whole base model, {total / 1e9:.3g} GB"
    else:
        own, total = sharded.own_bytes, sharded.total_bytes
        held = f"{own / 1e9:.3g} GB of the base model's {total / 1e9:.3g} GB between two passes"
    message = f"Each of the {plural(ranks.size, 'process')} holds {held} (sharding '{wanted}')"
    data = {"sharded": sharded is not None, "processes": ranks.size, "base_bytes": total, "bytes_per_process": own}
    report(Message(message=message, data=data))


def _blocks(causal: nn.Module) -> list[nn.Module]:
    """Returns the outermost layers of a model that compute its hidden states, encoders included."""
    found: list[nn.Module] = []
    inner: set[nn.Module] = set()
    for module in causal.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inner:
            found.append(module)
            inner.update(module.modules())
    return found


def _check(blocks: Sequence[nn.Module]) -> None:
    """Raises `JobFailure` if a model of these blocks cannot be sharded here."""
    if not blocks:
        raise _refused("transformers does not mark the blocks of this architecture.")
    weights = [value for block in blocks for value in block.parameters()]
    if len(set(weights)) < len(weights):
        raise _refused("two of its blocks share a weight.")
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise _refused(f"that needs torch 2.13 or later, and the worker has {torch.__version__}.")


def _refused(reason: str) -> JobFailure:
    return JobFailure(
        TrainerExit.bad_config, "sharding_unavailable", f"The base model cannot be sharded: {reason}", PARAM
    )
