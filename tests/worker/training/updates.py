"""Updates of hand-made groups, with the gradient that reached the optimiser."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from app.core.spec.advantages import group_advantages, has_contrast
from app.core.spec.reports import Source
from tests.worker.training.architectures import END, VOCABULARY
from worker.training.model import Policy
from worker.training.optimizer import MAX_GRAD_NORM, Updater, UpdateResult
from worker.training.policy_loss import PolicyLoss
from worker.training.types import GroupMember, Prompt, PromptGroup

PLENTY: Final = 100_000
"""A token budget that holds everything in one micro-batch."""


class Recorder(torch.optim.SGD):
    """Keeps the gradients of its last step and moves nothing."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(list(policy.trained.values()), lr=0.0)
        self._policy = policy
        self.gradients: dict[str, Tensor] | None = None

    def step(self, *_: Any, **__: Any) -> None:  # type: ignore[override] # returns no loss
        self.gradients = {
            name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
            for name, value in self._policy.trained.items()
        }


def updater(policy: Policy, optimizer: torch.optim.Optimizer | None = None, **options: Any) -> Updater:
    """An updater; by default with tau 0 and temperature 1. `options` are the loss's or the updater's."""
    loss = {name: options.pop(name) for name in PolicyLoss.__dataclass_fields__ if name in options}
    chosen: dict[str, Any] = {
        "loss": PolicyLoss(**{"tau": 0.0} | loss),
        "temperature": 1.0,
        "token_budget": PLENTY,
        "on_shrink": lambda _budget: None,
    } | options
    return Updater(policy, optimizer or Recorder(policy), **chosen)


def gradient(
    policy: Policy, groups: list[PromptGroup], number: int = 0, **options: Any
) -> tuple[dict[str, Tensor], UpdateResult]:
    """Returns the gradient of one update before clipping, and its `UpdateResult`."""
    recorder = Recorder(policy)
    result = updater(policy, recorder, **options).update(groups, 1.0, number)
    assert recorder.gradients is not None
    scale = max(1.0, (result.grad_norm + 1e-6) / MAX_GRAD_NORM)
    return {name: value * scale for name, value in recorder.gradients.items()}, result


def ids(random: torch.Generator, length: int) -> tuple[int, ...]:
    """Random tokens, the last one the end of the turn."""
    tokens = torch.randint(END + 1, VOCABULARY, (length - 1,), generator=random)
    return (*(int(token) for token in tokens), END)


def group(rewards: Sequence[float | None], *, seed: int = 0, lengths: Sequence[int] = (4, 1, 7, 2, 3)) -> PromptGroup:
    """A graded group of rollouts with random ids; `lengths` are used in turn."""
    random = torch.Generator().manual_seed(seed)
    prompt = Prompt(seed + 1, f"prompt {seed}", ids(random, 5 + seed % 3), (), {})
    members = [
        GroupMember(Source.self, ids(random, lengths[k % len(lengths)]), f"{seed}.{k}", finished=True)
        for k in range(len(rewards))
    ]
    for member, reward, advantage in zip(members, rewards, group_advantages(rewards), strict=True):
        member.reward, member.advantage = reward, advantage
    return PromptGroup(prompt, members, not has_contrast([reward for reward in rewards if reward is not None]))


def imitated(*lengths: int, seed: int = 0) -> list[PromptGroup]:
    """One demonstration a prompt, as supervised jobs have them."""
    groups = [group([1.0], seed=seed + k, lengths=[length]) for k, length in enumerate(lengths)]
    for one in groups:
        one.members[0].source = Source.expert
    return groups
