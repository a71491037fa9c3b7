"""Order of the data and micro-batches. Both are pure functions of their arguments, so a resumed run repeats them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Final

import numpy as np
import torch
from torch import Tensor

from worker.training.attention import Layout, Segment, segment_level
from worker.training.types import GroupMember, Prompt

_ORDER_STREAM = 0
WORTH_SHARING: Final = 64
"""Tokens that prompts must have in common, repetitions counted, before they share them: a level more costs each layer a
few small operations."""


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
class Packed:
    """What the prompts begin with, the rest of each, then the responses: T tokens in all, N of them trained.

    A response's last token predicts nothing that is trained, so it is not among the T.
    """

    ids_1_T: Tensor
    positions_1_T: Tensor
    layout: Layout
    predictor_N: Tensor
    """Which of the T states predicts each trained token."""
    tokens_N: Tensor
    response_N: Tensor
    """Which response, in order, each trained token belongs to."""


@dataclass(frozen=True)
class MicroBatch:
    """Packed groups and whose tokens they are."""

    sequences: tuple[tuple[Prompt, GroupMember], ...]
    packed: Packed
    unshared_tokens: int
    """How many tokens there would be if every response brought its own prompt."""


def micro_batches(
    groups: Sequence[tuple[Prompt, Sequence[GroupMember]]], token_budget: int, device: torch.device
) -> Iterator[MicroBatch]:
    """Groups of like length together, each batch at most `token_budget` packed tokens.

    A group larger than the budget is cut into parts that repeat its prompt; one response too long for it is a batch of
    its own. The gradient does not depend on the cut.
    """
    parts = [part for prompt, members in groups for part in _within_budget(prompt, members, token_budget)]
    parts.sort(key=lambda part: (len(part[0].ids), max(len(member.ids) for member in part[1])))
    batch: list[tuple[Prompt, list[GroupMember]]] = []
    size = 0
    for part in parts:
        cost = _cost(*part)
        if batch and size + cost > token_budget:
            yield _micro_batch(batch, device)
            batch, size = [], 0
        batch.append(part)
        size += cost
    if batch:
        yield _micro_batch(batch, device)


def _cost(prompt: Prompt, members: Sequence[GroupMember]) -> int:
    return len(prompt.ids) + sum(len(member.ids) - 1 for member in members)


def _within_budget(
    prompt: Prompt, members: Sequence[GroupMember], budget: int
) -> Iterator[tuple[Prompt, list[GroupMember]]]:
    part: list[GroupMember] = []
    for member in members:
        if part and _cost(prompt, [*part, member]) > budget:
            yield prompt, part
            part = []
        part.append(member)
    if part:
        yield prompt, part


def _micro_batch(parts: Sequence[tuple[Prompt, Sequence[GroupMember]]], device: torch.device) -> MicroBatch:
    sequences = tuple((prompt, member) for prompt, members in parts for member in members)
    return MicroBatch(
        sequences,
        pack([(prompt.ids, [member.ids for member in members]) for prompt, members in parts], device),
        sum(len(prompt.ids) + len(member.ids) - 1 for prompt, member in sequences),
    )


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, if that is worth sharing; leaves each prompt a token of its own."""
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*(prompt[:-1] for prompt in prompts), strict=False))
    length = sum(1 for _ in alike)
    return length if length * (len(prompts) - 1) >= WORTH_SHARING else 0


def pack(groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], device: torch.device) -> Packed:
    """Packs (prompt ids, ids of the responses to it). Raises `ValueError` for an empty prompt or response."""
    if not all(prompt and all(responses) for prompt, responses in groups):
        raise ValueError("an empty prompt has no token to predict a response from, an empty response none to train")
    shared = shared_length([prompt for prompt, _ in groups])
    root = ((0, shared),) if shared else ()
    ids = list(groups[0][0][:shared])
    positions = list(range(shared))
    prompts: list[Segment] = []
    for prompt, _ in groups:
        prompts.append(Segment((len(ids), len(prompt) - shared), root))
        ids.extend(prompt[shared:])
        positions.extend(range(shared, len(prompt)))
    predictor: list[int] = []
    tokens: list[int] = []
    owner: list[int] = []
    answers: list[Segment] = []
    responses = [(group, response) for group, (_, several) in enumerate(groups) for response in several]
    for number, (group, response) in enumerate(responses):
        inputs = len(response) - 1
        prompt, asked = groups[group][0], prompts[group].span
        predictor.append(sum(asked) - 1)
        predictor.extend(range(len(ids), len(ids) + inputs))
        tokens.extend(response)
        owner.extend([number] * len(response))
        if inputs:
            answers.append(Segment((len(ids), inputs), (*root, asked)))
        positions.extend(range(len(prompt), len(prompt) + inputs))
        ids.extend(response[:-1])
    levels = [[Segment(span) for span in root], prompts, answers]
    return Packed(
        ids_1_T=torch.tensor([ids], device=device),
        positions_1_T=torch.tensor([positions], device=device),
        layout=tuple(segment_level(segments, device) for segments in levels if segments),
        predictor_N=torch.tensor(predictor, device=device),
        tokens_N=torch.tensor(tokens, device=device),
        response_N=torch.tensor(owner, device=device),
    )
