"""Data order, micro-batches, and packing: many sequences in one row of tokens, with shared prefixes stored once.

Everything here is a pure function of its arguments, so a resumed run repeats it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Final

import numpy as np
import torch
from torch import Tensor

from worker.training.layout import Layout, Segment, segment_level
from worker.training.prefix_tree import Ids, Node, PrefixTree, common_length
from worker.training.types import GroupMember, Prompt

_ORDER_STREAM = 0
_SPARE_STREAM = 7
WORTH_SHARING: Final = 64
"""Tokens that sharing must save before all groups share a prefix: the level costs each layer a few small
operations."""
Example = tuple[Ids, Ids]
"""The context of a sequence, and the ids after it that are trained on."""


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

    def spare(self, step: int) -> list[Prompt]:
        """Returns all prompts that are not in a step, in a seeded order of that step."""
        used = {prompt.line for prompt in self.step(step)}
        permutation = np.random.default_rng([self.seed, _SPARE_STREAM, step]).permutation(len(self.prompts))
        return [self.prompts[i] for i in permutation if self.prompts[i].line not in used]


@dataclass(frozen=True)
class Packed:
    """A row of T packed tokens, N of which are predicted and trained on.

    The row is a tree of shared prefixes (`prefix_tree`), written level by level. Two prompts with a common system
    prompt S, rests P1 and P2, and responses a, b (to P1) and c, d (to P2) become

        tokens:     S S S | P1 P1 | P2 | a a | b | c c c | d        each response without its last token
        positions:  0 1 2 | 3  4  | 3  | 5 6 | 5 | 4 5 6 | 4        as if each sequence stood alone

    A response's last token is trained but predicts nothing, so it is a target only and not among the T inputs. A
    conversation whose turns continue each other is one segment in which several spans are trained.
    """

    ids_1_T: Tensor
    positions_1_T: Tensor
    layout: Layout
    predictor_N: Tensor
    """For each trained token, the index of the state among T that predicts it."""
    tokens_N: Tensor
    response_N: Tensor
    """For each trained token, the number of its sequence, in packing order."""
    sequences: tuple[Example, ...]
    """The sequences in packing order, for the plain path."""


@dataclass(frozen=True)
class MicroBatch:
    """Packed groups, and the member that each sequence belongs to."""

    sequences: tuple[tuple[Prompt, GroupMember], ...]
    packed: Packed
    unshared_tokens: int
    """Tokens without prefix sharing: every member with its own copy of its context."""


def example(prompt: Prompt, member: GroupMember) -> Example:
    """Returns the sequence of a member of a group of `prompt`."""
    return member.context_in(prompt), member.ids


class _Part:
    """Members of one group that are packed together, and the tree that they form."""

    def __init__(self, prompt: Prompt, *, shared: bool) -> None:
        self.prompt = prompt
        self.members: list[GroupMember] = []
        self.tree = PrefixTree()
        self._shared = shared
        self._unshared_tokens = 0

    def add(self, member: GroupMember) -> None:
        self.members.append(member)
        context, ids = example(self.prompt, member)
        self.tree.add(context, ids)
        self._unshared_tokens += len(context) + len(ids) - 1

    @property
    def tokens(self) -> int:
        return self.tree.tokens if self._shared else self._unshared_tokens

    def new_tokens(self, member: GroupMember) -> int:
        """Returns the number of tokens that `add` would add."""
        context, ids = example(self.prompt, member)
        return self.tree.new_tokens(context, ids) if self._shared else len(context) + len(ids) - 1

    @property
    def widths(self) -> tuple[int, ...]:
        """The longest segment of each level."""
        return tuple(max(len(node.ids) for node in level) for level in self.tree.levels())


def micro_batches(
    groups: Sequence[tuple[Prompt, Sequence[GroupMember]]],
    token_budget: int,
    device: torch.device,
    *,
    atomic: bool = False,
    shared: bool = True,
) -> Iterator[MicroBatch]:
    """Yields micro-batches of at most `token_budget` tokens, of groups of similar length.

    Prefixes that sequences share count once if they are `shared`, as on the fast path, else once for each sequence.

    A group larger than the budget is cut into parts that repeat its context, unless groups are `atomic`: a loss that
    compares the members of a group needs all of them in one micro-batch. A member, or an atomic group, longer than the
    budget is a micro-batch of its own. The gradient does not depend on the cut: the loss divides by N of the whole
    step.
    """
    budget = None if atomic else token_budget
    parts = [part for prompt, members in groups for part in _parts(prompt, members, budget, shared=shared)]
    # Attention pads each level to its longest segment, so groups of similar length waste the least.
    parts.sort(key=lambda part: part.widths)
    batch: list[_Part] = []
    size = 0
    for part in parts:
        if batch and size + part.tokens > token_budget:
            yield _micro_batch(batch, device)
            batch, size = [], 0
        batch.append(part)
        size += part.tokens
    if batch:
        yield _micro_batch(batch, device)


def _parts(prompt: Prompt, members: Sequence[GroupMember], budget: int | None, *, shared: bool) -> Iterator[_Part]:
    part = _Part(prompt, shared=shared)
    for member in members:
        if part.members and budget is not None and part.tokens + part.new_tokens(member) > budget:
            yield part
            part = _Part(prompt, shared=shared)
        part.add(member)
    if part.members:
        yield part


def _micro_batch(parts: Sequence[_Part], device: torch.device) -> MicroBatch:
    groups = [[example(part.prompt, member) for member in part.members] for part in parts]
    return MicroBatch(
        tuple((part.prompt, member) for part in parts for member in part.members),
        pack(groups, device),
        sum(len(context) + len(ids) - 1 for group in groups for context, ids in group),
    )


def shared_length(prompts: Sequence[Ids], worth_sharing: int = WORTH_SHARING) -> int:
    """Returns the length of the prefix that all prompts share, or 0 if sharing it saves too little.

    Leaves each prompt its last token: the state of that token predicts the first token of its responses.
    """
    length = common_length([prompt[:-1] for prompt in prompts])
    return length if length * (len(prompts) - 1) >= worth_sharing else 0


def pack(groups: Sequence[Sequence[Example]], device: torch.device, worth_sharing: int = WORTH_SHARING) -> Packed:
    """Packs groups of sequences into one row; sequences of a group share prefixes, and all groups one prefix.

    See `Packed` for the layout. Raises `ValueError` for an empty context and for a sequence without trained ids.
    """
    if not all(context and trained for group in groups for context, trained in group):
        raise ValueError("an empty prompt has no token to predict a response from, an empty response none to train")
    heads = [[context for context, _ in group] for group in groups if group]
    begins = [contexts[0][: common_length(contexts)] for contexts in heads]
    shared = heads[0][0][: shared_length(begins, worth_sharing)]
    trees = [PrefixTree(shared) for _ in groups]
    sequences = [
        (context, trained, tree.add(context, trained))
        for tree, group in zip(trees, groups, strict=True)
        for context, trained in group
    ]
    row = _Row(trees, shared)
    predictor: list[int] = []
    tokens: list[int] = []
    owner: list[int] = []
    for number, (context, trained, node) in enumerate(sequences):
        # The context's last token predicts the first trained token, and each trained token predicts the next one.
        first = len(context) - 1
        predictor.extend(row.places(node, first, first + len(trained)))
        tokens.extend(trained)
        owner.extend([number] * len(trained))
    return Packed(
        ids_1_T=torch.tensor([row.ids], device=device),
        positions_1_T=torch.tensor([row.positions], device=device),
        layout=tuple(segment_level(segments, device) for segments in row.levels),
        predictor_N=torch.tensor(predictor, device=device),
        tokens_N=torch.tensor(tokens, device=device),
        response_N=torch.tensor(owner, device=device),
        sequences=tuple((context, trained) for context, trained, _ in sequences),
    )


class _Row:
    """The tokens of several trees in one row: first the root that all of them share, then level by level."""

    def __init__(self, trees: Sequence[PrefixTree], shared: Ids) -> None:
        self.ids = list(shared)
        self.positions = list(range(len(shared)))
        root = Segment((0, len(shared)))
        self.levels = [[root]] if shared else []
        self._segments: dict[Node, Segment] = {tree.root: root for tree in trees}
        for levels in zip_longest(*(tree.levels() for tree in trees), fillvalue=[]):
            self.levels.append([self._place(node) for nodes in levels for node in nodes])

    def _place(self, node: Node) -> Segment:
        # A node attends to the nodes of its path, never to another branch. Its positions continue the whole path, as if
        # no other sequence were in the row.
        prefix = tuple(span for one in node.path[:-1] if (span := self._segments[one].span)[1])
        self._segments[node] = segment = Segment((len(self.ids), len(node.ids)), prefix)
        self.ids.extend(node.ids)
        self.positions.extend(range(node.start, node.end))
        return segment

    def places(self, node: Node, first: int, stop: int) -> Iterator[int]:
        """Yields the indices in the row of positions `first` to `stop` (exclusive) of the path of `node`."""
        for one in node.path:
            offset = self._segments[one].span[0] - one.start
            yield from range(offset + max(first, one.start), offset + min(stop, one.end))
