"""Activation recomputation: saves the inputs of the cheap operations and repeats them in the backward pass.

In a frozen model with LoRA, the matrix products take nearly all of the time, but norms, activation functions and
attention weights take much of the memory. So each layer saves its residual stream and the results of its matrix
products, and recomputes the rest from them. Checkpointing whole layers would save more memory, but would repeat the
matrix products too.

torch's selective activation checkpointing of all but the matrix products keeps 414 MB where this keeps 180 MB, and
308 MB without the products as wide as the residual stream (SmolLM2's shape in bf16, 512 packed tokens, one CPU thread;
345 MB without either). Its forward and backward pass took about half as long again. It also needs a LoRA product that
changes nothing in place: with the fused one, its gradients are wrong.

Example, a gated MLP, down(act(gate(x)) * up(x)):

    saved:       gate(x) and up(x), the results of matrix products
    recomputed:  act(gate(x)) * up(x), which the down projection needs for its LoRA gradient
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn

Function = Callable[..., Tensor]
_RECOMPUTE: Final = "_grouptune_recompute"


class Recompute:
    """A function that the backward pass repeats once, however many consumers need its result or its gradient."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._graph: tuple[list[Tensor], Tensor] | None = None

    def value(self, saved: Sequence[Tensor]) -> Tensor:
        """Returns the function's result for its inputs `saved`, computed at most once per backward pass."""
        if self._graph is None:
            # Detached inputs cut this small graph off from the forward graph, which autograd is walking right now.
            inputs = [value.detach().requires_grad_(value.requires_grad) for value in saved]
            with torch.enable_grad():
                self._graph = inputs, self._function(*inputs)
        return self._graph[1].detach()

    def gradients(self, saved: Sequence[Tensor], gradient: Tensor) -> list[Tensor | None]:
        """Returns the gradient for each of `saved`, None where none is needed, and frees the result.

        `gradient` is dL/d(result). Autograd calls this after all consumers of the result, since their gradients add up
        to `gradient`; so the result is not needed any more.
        """
        self.value(saved)
        assert self._graph is not None  # noqa: S101 - for the type checker: `value` has just set it
        (inputs, output), self._graph = self._graph, None
        gradients = iter(torch.autograd.grad(output, [value for value in inputs if value.requires_grad], gradient))
        return [next(gradients) if value.requires_grad else None for value in inputs]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, recompute: Recompute, function: Function, *inputs: Tensor) -> Tensor:
        # torch disables gradients inside forward, so `function` saves nothing here.
        context.save_for_backward(*inputs)
        context.recompute = recompute
        return function(*inputs)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *context.recompute.gradients(context.saved_tensors, gradients[0])


def recomputed(function: Function, *inputs: Tensor) -> Tensor:
    """Returns `function(*inputs)`, saving only the inputs for the backward pass.

    The function must be deterministic and must have no trained parameters: only its inputs get a gradient.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    recompute = Recompute(function)
    output: Tensor = _Recomputed.apply(recompute, function, *inputs)
    if output.requires_grad:
        setattr(output, _RECOMPUTE, (recompute, inputs))  # for `rebuild_plan`
    return output


def rebuild_plan(value: Tensor) -> tuple[Callable[[Sequence[Tensor]], Tensor], tuple[Tensor, ...]]:
    """Returns how to get `value` in the backward pass: a function, and the tensors to save as its argument.

    For a result of `recomputed` these are its inputs, which are saved already, so a consumer that saves them instead
    of `value` adds no memory. For any other tensor it is the tensor itself.
    """
    plan: tuple[Recompute, tuple[Tensor, ...]] | None = getattr(value, _RECOMPUTE, None)
    return (_itself, (value,)) if plan is None else (plan[0].value, plan[1])


def _itself(saved: Sequence[Tensor]) -> Tensor:
    return saved[0]


def recompute_activations(
    model: nn.Module, whole: Callable[[nn.Module], AbstractContextManager[object]] = nullcontext
) -> None:
    """Makes the frozen norms and gated MLPs of a model save only their inputs. Changes the model in place.

    `whole` is a context in which a module's weights are whole, for models that are sharded.
    """
    for module in list(model.modules()):
        if _is_norm(module):
            module.forward = _RecomputedNorm(module.forward)
        elif _has_parts(module):
            with whole(module):
                is_gated = _is_gated_mlp(module)
            if is_gated:
                module.forward = _RecomputedGatedMlp(module)


def save_activations(model: nn.Module) -> None:
    """Undoes `recompute_activations`."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), _RecomputedNorm | _RecomputedGatedMlp):
            del module.forward


class _RecomputedNorm:
    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if len(arguments) != 1 or options:  # a gated norm: its other inputs may need a gradient
            return self._forward(*arguments, **options)
        return recomputed(self._forward, *arguments)


class _RecomputedGatedMlp:
    """Computes down(act(gate(x)) * up(x)) and recomputes the elementwise part."""

    def __init__(self, mlp: Any) -> None:
        self._mlp = mlp

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        mlp = self._mlp
        if len(arguments) != 1 or options:
            return type(mlp).forward(mlp, *arguments, **options)
        [x] = arguments
        hidden = recomputed(self._product, mlp.gate_proj(x), mlp.up_proj(x))
        output: Tensor = mlp.down_proj(hidden)
        return output

    def _product(self, gate: Tensor, up: Tensor) -> Tensor:
        product: Tensor = self._mlp.act_fn(gate) * up
        return product


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and not any(value.requires_grad for value in module.parameters())


def _has_parts(module: Any) -> bool:
    parts = ("gate_proj", "up_proj", "down_proj")
    return all(isinstance(getattr(module, name, None), nn.Module) for name in parts) and callable(
        getattr(module, "act_fn", None)
    )


@torch.no_grad()
def _is_gated_mlp(module: Any) -> bool:
    """Returns whether a module with the parts of a gated MLP computes `_RecomputedGatedMlp`, tested on a few numbers.

    The attribute names alone are no proof: an architecture may combine the same parts differently.
    """
    weight = module.gate_proj.weight
    # A 4-bit weight is packed: it has neither the layer's width nor a dtype to compute in.
    dtype = weight.dtype if weight.is_floating_point() else torch.bfloat16
    x = torch.linspace(-2, 2, module.gate_proj.in_features, dtype=dtype, device=weight.device)[None, None]
    return torch.equal(_RecomputedGatedMlp(module)(x), module(x))
