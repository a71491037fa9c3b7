"""Order of the data and micro-batches. Both are pure functions of their arguments, so a resumed run repeats them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from worker.training.types import Member, Prompt

_ORDER_STREAM = 0


class DataOrder:
    """Which prompts each optimiser step sees: every epoch a fresh seeded permutation, cut into steps."""

    def __init__(self, prompts: Sequence[Prompt], batch_size: int, n_epochs: int, seed: int) -> None:
        self.prompts = prompts
        self.batch_size = min(batch_size, len(prompts))
        self.steps_per_epoch = -(-len(prompts) // self.batch_size)
        self.total_steps = self.steps_per_epoch * n_epochs
        self.seed = seed
        self._permutation = lru_cache(maxsize=1)(self._permute)

    def _permute(self, epoch: int) -> list[int]:
        permutation = np.random.default_rng([self.seed, _ORDER_STREAM, epoch]).permutation(len(self.prompts))
        return [int(index) for index in permutation]

    def step(self, step: int) -> list[Prompt]:
        """The prompts of step 1, 2, ...; the last step of an epoch may hold fewer."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        chosen = self._permutation(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        return [self.prompts[i] for i in chosen]


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded sequences, with the positions of their response tokens laid out flat."""

    sequences: tuple[tuple[Prompt, Member], ...]
    ids_B_T: Tensor
    attention_B_T: Tensor
    predictor_N: Tensor
    """Index into [B * T] of the state that predicts each response token."""
    tokens_N: Tensor
    sequence_N: Tensor
    """Which of `sequences` each response token belongs to."""


def micro_batches(
    sequences: Sequence[tuple[Prompt, Member]], token_budget: int, pad_id: int, device: torch.device
) -> Iterator[MicroBatch]:
    """Sequences of like length together, each batch at most `token_budget` tokens with its padding.

    One sequence longer than the budget is a batch of its own. The gradient does not depend on the cut.
    """
    ordered = sorted(sequences, key=lambda pair: -(len(pair[0].ids) + len(pair[1].ids)))
    start = 0
    while start < len(ordered):
        width = len(ordered[start][0].ids) + len(ordered[start][1].ids)
        count = max(1, token_budget // width)
        yield _pad(ordered[start : start + count], width, pad_id, device)
        start += count


def _pad(sequences: Sequence[tuple[Prompt, Member]], width: int, pad_id: int, device: torch.device) -> MicroBatch:
    ids: list[list[int]] = []
    attention: list[list[int]] = []
    predictor: list[int] = []
    tokens: list[int] = []
    owner: list[int] = []
    for row, (prompt, member) in enumerate(sequences):
        length = len(prompt.ids) + len(member.ids)
        ids.append([*prompt.ids, *member.ids] + [pad_id] * (width - length))
        attention.append([1] * length + [0] * (width - length))
        first = row * width + len(prompt.ids) - 1
        predictor.extend(range(first, first + len(member.ids)))
        tokens.extend(member.ids)
        owner.extend([row] * len(member.ids))
    return MicroBatch(
        tuple(sequences),
        torch.tensor(ids, device=device),
        torch.tensor(attention, device=device),
        torch.tensor(predictor, device=device),
        torch.tensor(tokens, device=device),
        torch.tensor(owner, device=device),
    )
