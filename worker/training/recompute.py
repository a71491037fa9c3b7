"""What the backward pass computes again instead of keeping: everything cheap between a frozen model's matrix products.

Of each layer only the stream between the blocks and the results of its matrix products are kept. Norms, activations
and attention's weights come from those in a small part of the time that the products take; whole-layer checkpoints
would repeat the products too.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

Function = Callable[..., Tensor]
_RECOMPUTE: Final = "_grouptune_recompute"


class Recompute:
    """A function of tensors that the backward pass computes once more, for all who need the result or its gradient."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._graph: tuple[list[Tensor], Tensor] | None = None

    def value(self, kept: Sequence[Tensor]) -> Tensor:
        """The result for the tensors `kept`."""
        if self._graph is None:
            inputs = [value.detach().requires_grad_(value.requires_grad) for value in kept]
            with torch.enable_grad():
                self._graph = inputs, self._function(*inputs)
        return self._graph[1].detach()

    def gradients(self, kept: Sequence[Tensor], gradient: Tensor) -> list[Tensor | None]:
        """Of each of `kept`, None where none is needed. The result is let go."""
        self.value(kept)
        assert self._graph is not None  # noqa: S101 - for the type checker: `value` has just made it
        (inputs, output), self._graph = self._graph, None
        found = iter(torch.autograd.grad(output, [value for value in inputs if value.requires_grad], gradient))
        return [next(found) if value.requires_grad else None for value in inputs]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, recompute: Recompute, function: Function, *inputs: Tensor) -> Tensor:
        context.save_for_backward(*inputs)
        context.recompute = recompute
        return function(*inputs)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *context.recompute.gradients(context.saved_tensors, gradients[0])


def recomputed(function: Function, *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, of which only the inputs are kept for the backward pass.

    The function must give the same result each time and train nothing but its inputs.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    recompute = Recompute(function)
    output: Tensor = _Recomputed.apply(recompute, function, *inputs)
    if output.requires_grad:
        setattr(output, _RECOMPUTE, (recompute, inputs))
    return output


def rebuild_plan(value: Tensor) -> tuple[Callable[[Sequence[Tensor]], Tensor], tuple[Tensor, ...]]:
    """How to have `value` in the backward pass: the tensors to keep, and what makes it of them."""
    found: tuple[Recompute, tuple[Tensor, ...]] | None = getattr(value, _RECOMPUTE, None)
    return (_itself, (value,)) if found is None else (found[0].value, found[1])


def _itself(kept: Sequence[Tensor]) -> Tensor:
    return kept[0]


def recompute_activations(model: nn.Module) -> None:
    """Norms and gated MLPs of a model with frozen norms keep only what they are given, from now on, in place."""
    for module in list(model.modules()):
        if _is_norm(module):
            module.forward = _RecomputedNorm(module.forward)
        elif _is_gated_mlp(module):
            module.forward = _RecomputedGatedMlp(module)


class _RecomputedNorm:
    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward

    def __call__(self, x: Tensor) -> Tensor:
        return recomputed(self._forward, x)


class _RecomputedGatedMlp:
    """down(act(gate(x)) * up(x)), which is what such an MLP computes."""

    def __init__(self, mlp: Any) -> None:
        self._mlp = mlp

    def __call__(self, x: Tensor) -> Tensor:
        mlp = self._mlp
        hidden = recomputed(self._product, mlp.gate_proj(x), mlp.up_proj(x))
        output: Tensor = mlp.down_proj(hidden)
        return output

    def _product(self, gate: Tensor, up: Tensor) -> Tensor:
        product: Tensor = self._mlp.act_fn(gate) * up
        return product


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and not any(value.requires_grad for value in module.parameters())


@torch.no_grad()
def _is_gated_mlp(module: Any) -> bool:
    """Whether the module computes what `_RecomputedGatedMlp` does, seen on a few numbers."""
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in ("gate_proj", "up_proj", "down_proj")):
        return False
    if not callable(getattr(module, "act_fn", None)):
        return False
    weight = module.gate_proj.weight
    x = torch.linspace(-2, 2, weight.shape[-1], dtype=weight.dtype, device=weight.device)[None, None]
    return torch.equal(_RecomputedGatedMlp(module)(x), module(x))
