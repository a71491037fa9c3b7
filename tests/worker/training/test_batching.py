"""Data order, packing and micro-batches, and that none of them moves a log-probability."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.core.spec.reports import Source
from tests.worker.training.architectures import VOCABULARY
from worker.training.batching import DataOrder, MicroBatch, micro_batches, pack, shared_length
from worker.training.model import Policy
from worker.training.types import GroupMember, Prompt

CPU = torch.device("cpu")


def prompts(count: int) -> list[Prompt]:
    return [Prompt(line, f"row {line}", (line,), (), {}) for line in range(1, count + 1)]


def lines(order: DataOrder, steps: Sequence[int]) -> list[int]:
    return [prompt.line for step in steps for prompt in order.step(step)]


def test_every_epoch_has_its_own_permutation() -> None:
    order = DataOrder(prompts(10), batch_size=4, n_epochs=3, seed=1)
    assert (order.steps_per_epoch, order.total_steps) == (3, 9)
    epochs = [lines(order, range(first, first + 3)) for first in (1, 4, 7)]
    assert all(sorted(epoch) == list(range(1, 11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [len(order.step(step)) for step in range(1, 10)] == [3, 3, 4] * 3


@given(rows=st.integers(1, 300), batch_size=st.integers(1, 64))
def test_step_sizes_differ_by_at_most_one(rows: int, batch_size: int) -> None:
    order = DataOrder(prompts(rows), batch_size, n_epochs=2, seed=1)
    sizes = [len(order.step(step)) for step in range(1, order.steps_per_epoch + 1)]
    assert sum(sizes) == rows
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size
    assert len(sizes) == -(-rows // batch_size)
    assert sorted(lines(order, range(order.steps_per_epoch + 1, order.total_steps + 1))) == list(range(1, rows + 1))


def test_order_depends_on_seed_and_step_only() -> None:
    first, again, other = (DataOrder(prompts(50), 8, 2, seed) for seed in (3, 3, 4))
    assert lines(again, [9]) == lines(first, [9])  # asked for the ninth step first
    assert lines(again, range(1, 15)) == lines(first, range(1, 15))
    assert lines(other, range(1, 8)) != lines(first, range(1, 8))


def test_batch_is_at_most_the_whole_data() -> None:
    order = DataOrder(prompts(3), batch_size=8, n_epochs=2, seed=0)
    assert order.total_steps == 2
    assert sorted(lines(order, [2])) == [1, 2, 3]


def test_packing_by_hand() -> None:
    batch = pack([[((10, 11, 12), (20, 21, 22)), ((10, 11, 12), (30, 31))], [((13,), (40, 41))]], CPU)
    assert batch.ids_1_T.tolist() == [[10, 11, 12, 13, 40, 20, 21, 30]]  # no response's last token
    assert batch.positions_1_T.tolist() == [[0, 1, 2, 0, 1, 3, 4, 3]]
    assert batch.tokens_N.tolist() == [20, 21, 22, 30, 31, 40, 41]
    assert batch.predictor_N.tolist() == [2, 5, 6, 2, 7, 3, 4]
    assert batch.response_N.tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_packing_a_conversation_by_hand() -> None:
    """Turns that continue each other are one segment; where the second history differs, the segment is cut."""
    linear = [((10, 11), (20, 21, 2)), ((10, 11, 20, 21, 2, 12), (22, 2)), ((10, 11, 20, 21, 2, 12, 22, 2, 13), (23,))]
    batch = pack([linear], CPU)
    assert batch.ids_1_T.tolist() == [[10, 11, 20, 21, 2, 12, 22, 2, 13]]
    assert batch.positions_1_T.tolist() == [list(range(9))]
    assert (len(batch.layout), len(batch.layout[0].index_N_L)) == (1, 1)
    assert batch.tokens_N.tolist() == [20, 21, 2, 22, 2, 23]
    assert batch.predictor_N.tolist() == [1, 2, 3, 5, 6, 8]
    assert batch.response_N.tolist() == [0, 0, 0, 1, 1, 2]
    # The second context has no 20, the thought of the first answer.
    diverging = [((10, 11), (20, 21, 2)), ((10, 11, 21, 2, 12), (22, 23, 2))]
    batch = pack([diverging], CPU)
    assert batch.ids_1_T.tolist() == [[10, 11, 20, 21, 21, 2, 12, 22, 23]]
    assert batch.positions_1_T.tolist() == [[0, 1, 2, 3, 2, 3, 4, 5, 6]]
    assert batch.predictor_N.tolist() == [1, 2, 3, 6, 7, 8]


Groups = list[tuple[Prompt, list[GroupMember]]]


def random_groups(seed: int = 0) -> Groups:
    """Five groups of 1 to 4 responses of 1 to 9 tokens; prompts of 2 to 10 tokens."""
    random = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high + 1, (), generator=random))
        return tuple(int(token) for token in torch.randint(3, VOCABULARY, (length,), generator=random))

    groups = []
    for line, size in enumerate((4, 1, 2, 3, 4), start=1):
        members = [GroupMember(Source.self, ids(1, 9), f"{line}.{k}", finished=True) for k in range(size)]
        groups.append((Prompt(line, "", ids(2, 10), (), {}), members))
    return groups


def batches(groups: Groups, budget: int) -> list[MicroBatch]:
    return list(micro_batches(groups, budget, CPU))


def packed_tokens(batch: MicroBatch) -> int:
    return batch.packed.ids_1_T.numel()


@pytest.mark.parametrize("budget", [1, 12, 20, 40, 10_000])
def test_budget_holds_for_every_micro_batch(budget: int) -> None:
    groups = random_groups()
    cut = batches(groups, budget)
    names = [member.text for batch in cut for _, member in batch.sequences]
    assert sorted(names) == sorted(member.text for _, members in groups for member in members)
    for batch in cut:
        assert packed_tokens(batch) <= budget or len(batch.sequences) == 1
        tokens = [token for _, member in batch.sequences for token in member.ids]
        assert batch.packed.tokens_N.tolist() == tokens
        unshared = sum(len(prompt.ids) + len(member.ids) - 1 for prompt, member in batch.sequences)
        assert batch.unshared_tokens == unshared
    assert len(cut) == (1 if budget == 10_000 else len(names) if budget == 1 else len(cut))


def test_a_budget_with_room_shares_each_prompt() -> None:
    groups = random_groups()
    [batch] = batches(groups, 10_000)
    responses = sum(len(member.ids) - 1 for _, members in groups for member in members)
    assert packed_tokens(batch) == sum(len(prompt.ids) for prompt, _ in groups) + responses


def logprobs_by_member(policy: Policy, groups: Groups, budget: int) -> dict[str, torch.Tensor]:
    found = {}
    for batch in batches(groups, budget):
        logprobs_N, _ = policy.logprobs(batch.packed, 1.0)
        sizes = [len(member.ids) for _, member in batch.sequences]
        for (_, member), part in zip(batch.sequences, torch.split_with_sizes(logprobs_N, sizes), strict=True):
            found[member.text] = part
    return found


@torch.no_grad()
def test_logprobs_ignore_order_and_cut(llama: Policy) -> None:
    groups = random_groups()
    reversed_groups = [(prompt, members[::-1]) for prompt, members in reversed(groups)]
    whole = logprobs_by_member(llama, groups, 10_000)
    for found in itertools.chain(
        (logprobs_by_member(llama, groups, budget) for budget in (1, 12, 25)),
        [logprobs_by_member(llama, reversed_groups, 10_000)],
        [logprobs_by_member(llama, groups[1:3], 10_000)],
    ):
        assert all(torch.allclose(part, whole[name], atol=1e-5, rtol=0) for name, part in found.items())


def test_prefix_is_shared_when_long_enough() -> None:
    head = list(range(3, 43))
    assert shared_length([[*head, 50], [*head, 51, 52]]) == 0  # 40 tokens saved
    assert shared_length([[*head, 50], [*head, 51, 52], [*head, 53]]) == 40
    assert shared_length([head, head, head, head]) == 39  # each keeps the token that predicts the response
    assert shared_length([head]) == 0
    packed = pack([[([*head, last], (7, 8))] for last in (50, 51, 52)], CPU)
    assert packed.ids_1_T.tolist() == [[*head, 50, 7, 51, 7, 52, 7]]
    assert packed.positions_1_T.tolist() == [[*range(40), 40, 41, 40, 41, 40, 41]]
    assert packed.predictor_N.tolist() == [40, 41, 42, 43, 44, 45]


@pytest.mark.parametrize("bad", [[((), (5, 2))], [((5,), (6, 2)), ((5,), ())], [((5,), ())]])
def test_empty_prompt_or_response_is_rejected(bad: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    """The prompt is what is not trained, the response what is; in another place each would shift the other."""
    with pytest.raises(ValueError, match="an empty prompt has no token"):
        pack([[((5, 6), (7, 2))], bad], CPU)


def test_contexts_of_members_are_budgeted() -> None:
    """Turns share their history until the budget cuts them; a turn longer than the budget stands alone."""
    turns = [((3,) * 10, (4,) * 6), ((3,) * 10 + (4,) * 6 + (5,) * 4, (6,) * 6), ((3,) * 10 + (7,) * 5, (8,) * 2)]
    members = [GroupMember(Source.expert, ids, str(k), finished=True, context=c) for k, (c, ids) in enumerate(turns)]
    groups = [(Prompt(1, "", (9,), (), {}), members)]
    [whole] = batches(groups, 31)
    assert (packed_tokens(whole), whole.unshared_tokens) == (25 + 6, 15 + 25 + 16)
    two, one = sorted(batches(groups, 30), key=packed_tokens, reverse=True)
    assert (packed_tokens(two), [member.text for _, member in two.sequences]) == (25, ["0", "1"])
    assert (packed_tokens(one), one.unshared_tokens) == (16, 16)
    alone = batches(groups, 1)
    assert sorted(packed_tokens(batch) for batch in alone) == [15, 16, 25]


def test_atomic_groups_are_never_cut() -> None:
    groups = random_groups()
    for batch in micro_batches(groups, 1, CPU, atomic=True):
        [line] = {prompt.line for prompt, _ in batch.sequences}
        assert [member.text for _, member in batch.sequences] == [member.text for member in groups[line - 1][1]]
