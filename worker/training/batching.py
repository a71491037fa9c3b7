"""Data order, micro-batches, and packing: many responses in one row of tokens, with shared prefixes stored once.

Everything here is a pure function of its arguments, so a resumed run repeats it.
"""

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
"""Tokens that sharing must save before all prompts share a prefix: the level costs each layer a few small
operations."""


class DataOrder:
    """The prompts of each optimiser step: a new seeded permutation per epoch, cut into steps of equal size.

    The sizes within an epoch differ by at most one prompt. Every step is a full update at the full learning rate, so a
    short last step would give its prompts a multiple of the weight of all others.
    """

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
        """Returns the prompts of step 1, 2, ...; at most `batch_size`."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        first, end = (at * len(self.prompts) // self.steps_per_epoch for at in (position, position + 1))
        return [self.prompts[i] for i in self._permutation(epoch)[first:end]]


@dataclass(frozen=True)
class Packed:
    """A row of T packed tokens, N of which are predicted and trained on.

    The row is a tree of shared prefixes, written level by level. Two prompts with a common system prompt S, rests P1
    and P2, and responses a, b (to P1) and c (to P2) become

        tokens:     S S S | P1 P1 | P2 | a a | b | c c c        each response without its last token
        positions:  0 1 2 | 3  4  | 3  | 5 6 | 5 | 4 5 6        as if each sequence stood alone

    A response's last token is trained but predicts nothing, so it is a target only and not among the T inputs.
    """

    ids_1_T: Tensor
    positions_1_T: Tensor
    layout: Layout
    predictor_N: Tensor
    """For each trained token, the index of the state among T that predicts it."""
    tokens_N: Tensor
    response_N: Tensor
    """For each trained token, the number of its response, in packing order."""


@dataclass(frozen=True)
class MicroBatch:
    """Packed groups, and the member that each response belongs to."""

    sequences: tuple[tuple[Prompt, GroupMember], ...]
    packed: Packed
    unshared_tokens: int
    """Tokens without prefix sharing: every response with its own copy of the prompt."""


def micro_batches(
    groups: Sequence[tuple[Prompt, Sequence[GroupMember]]], token_budget: int, device: torch.device
) -> Iterator[MicroBatch]:
    """Yields micro-batches of at most `token_budget` packed tokens, of groups of similar length.

    A group larger than the budget is cut into parts that repeat its prompt. A response longer than the budget is a
    micro-batch of its own. The gradient does not depend on the cut: the loss divides by N of the whole step.
    """
    parts = [part for prompt, members in groups for part in _within_budget(prompt, members, token_budget)]
    # Attention pads each level to its longest segment, so groups of similar length waste the least.
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
    """Returns the packed tokens of a prompt with these members: the prompt once, each response minus its last token."""
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
    """Returns the length of the prefix that all prompts share, or 0 if sharing it saves too little.

    Leaves each prompt its last token: the state of that token predicts the first token of its responses.
    """
    common = takewhile(lambda column: len(set(column)) == 1, zip(*(prompt[:-1] for prompt in prompts), strict=False))
    length = sum(1 for _ in common)
    return length if length * (len(prompts) - 1) >= WORTH_SHARING else 0


def pack(groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], device: torch.device) -> Packed:
    """Packs groups of (prompt ids, ids of the responses to it) into one row; see `Packed` for the layout.

    Raises `ValueError` for an empty prompt or response.
    """
    if not all(prompt and all(responses) for prompt, responses in groups):
        raise ValueError("an empty prompt has no token to predict a response from, an empty response none to train")
    # Level 0: the prefix of all prompts, once.
    shared = shared_length([prompt for prompt, _ in groups])
    root = ((0, shared),) if shared else ()
    ids = list(groups[0][0][:shared])
    positions = list(range(shared))
    # Level 1: the rest of each prompt. It attends to level 0.
    prompts: list[Segment] = []
    for prompt, _ in groups:
        prompts.append(Segment((len(ids), len(prompt) - shared), root))
        ids.extend(prompt[shared:])
        positions.extend(range(shared, len(prompt)))
    # Level 2: the responses. Each attends to level 0 and to its own prompt's rest, never to another response.
    predictor: list[int] = []
    tokens: list[int] = []
    owner: list[int] = []
    response_segments: list[Segment] = []
    responses = [(group, response) for group, (_, several) in enumerate(groups) for response in several]
    for number, (group, response) in enumerate(responses):
        inputs = len(response) - 1
        prompt, prompt_span = groups[group][0], prompts[group].span
        # The prompt's last token predicts the response's first token, and each response token predicts the next one.
        predictor.append(sum(prompt_span) - 1)
        predictor.extend(range(len(ids), len(ids) + inputs))
        tokens.extend(response)
        owner.extend([number] * len(response))
        if inputs:
            response_segments.append(Segment((len(ids), inputs), (*root, prompt_span)))
        # Positions continue the whole prompt, as if no other response were in the row.
        positions.extend(range(len(prompt), len(prompt) + inputs))
        ids.extend(response[:-1])
    levels = [[Segment(span) for span in root], prompts, response_segments]
    return Packed(
        ids_1_T=torch.tensor([ids], device=device),
        positions_1_T=torch.tensor([positions], device=device),
        layout=tuple(segment_level(segments, device) for segments in levels if segments),
        predictor_N=torch.tensor(predictor, device=device),
        tokens_N=torch.tensor(tokens, device=device),
        response_N=torch.tensor(owner, device=device),
    )
