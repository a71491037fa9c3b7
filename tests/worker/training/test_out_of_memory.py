"""Micro-batches that run out of memory are halved until they fit; the step does not change."""

from typing import Any

import pytest
import torch

from tests.worker.training import plain
from tests.worker.training.test_optimizer import mixed_groups
from tests.worker.training.updates import gradient
from worker.training.model import Policy
from worker.training.out_of_memory import is_out_of_memory

IMPOSSIBLE_BYTES = 1 << 60


def fail_above(policy: Policy, tokens: int) -> Any:
    """Makes the real allocator fail whenever a batch holds more than `tokens` tokens."""

    def hook(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if options["input_ids"].numel() > tokens:
            torch.empty(IMPOSSIBLE_BYTES, dtype=torch.uint8)

    return policy.trunk.register_forward_pre_hook(hook, with_kwargs=True)


def test_halved_budget_keeps_the_gradient(llama: Policy) -> None:
    expected, _ = gradient(llama, mixed_groups(), tau=0.3)
    budgets: list[int] = []
    hook = fail_above(llama, 20)
    found, result = gradient(llama, mixed_groups(), tau=0.3, token_budget=160, on_shrink=budgets.append)
    hook.remove()
    assert result.applied
    assert budgets == [80, 40, 20]
    assert plain.distance(found, expected) < 1e-6


def test_smallest_batch_reraises_the_error(llama: Policy) -> None:
    hook = fail_above(llama, 0)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as caught:
        gradient(llama, mixed_groups(), tau=0.3)
    hook.remove()
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))
    assert is_out_of_memory(MemoryError())
