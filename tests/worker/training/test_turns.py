"""Conversations in which every turn is trained, packed as trees, against one plain forward pass for each turn."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.spec.reports import Source
from tests.properties import examples
from tests.worker.training import plain
from tests.worker.training.architectures import random_policy
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.conversations import LONGEST, alone, conversation, mixed
from tests.worker.training.test_attention import FUSED
from tests.worker.training.updates import gradient
from worker.training.batching import Example, Packed, pack
from worker.training.model import Policy
from worker.training.types import GroupMember, Prompt, PromptGroup

CPU = torch.device("cpu")


@pytest.mark.parametrize("kernel", ["products", "fused kernel"])
@pytest.mark.parametrize("system", [0, 6])
def test_turns_equal_single_forward_passes(
    system: int,
    kernel: str,
    policy: Policy,
    architecture: str,
    model_directory: ModelDirectory,
) -> None:
    """Without and with a system prompt that all rows share."""
    if kernel == "fused kernel":
        policy.cpu_limits = FUSED
    groups = mixed(seed=4, system=system)
    packed = pack(groups, CPU, worth_sharing=1)
    assert len(packed.layout) == (5 if system else 4)
    model = plain.plain_copy(model_directory(architecture), policy)
    found_N, expected_N = policy.logprobs(packed, 0.8)[0], plain.logprobs(model, alone(groups), 0.8)
    assert float((found_N - expected_N).detach().abs().max()) < 1e-5
    weights_N = torch.randn(len(found_N))
    found = plain.gradients(policy.model, (weights_N * found_N).sum())
    assert plain.distance(found, plain.gradients(model, (weights_N * expected_N).sum())) < 1e-5


tokens = st.lists(st.integers(3, 5), min_size=1, max_size=7)
"""Of three kinds only, so that sequences share prefixes of all lengths, answers included."""
groups_of_sequences = st.lists(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=5), min_size=1, max_size=4)


def readable(packed: Packed) -> dict[int, list[int]]:
    """For each token of the row, the tokens that it attends to, itself last, according to the layout's masks."""
    row = packed.ids_1_T[0].tolist()
    read = {}
    for level in packed.layout:
        places = torch.cat([level.prefix_index_N_P, level.index_N_L], 1)
        visible = level.mask(None)[:, 0].expand(len(places), -1, -1)
        for slot in level.slots.tolist():
            segment, own = divmod(slot, level.index_N_L.shape[1])
            place = int(level.index_N_L[segment, own])
            read[place] = [row[at] for at in places[segment][visible[segment, own]].tolist()]
    return read


@given(groups_of_sequences, st.sampled_from([1, 1000]))
def test_every_token_reads_its_own_history(groups: list[list[Example]], worth: int) -> None:
    packed = pack(groups, CPU, worth)
    read = readable(packed)
    assert list(read) == list(range(packed.ids_1_T.numel()))  # levels follow one another in the row
    sequences = [sequence for group in groups for sequence in group]
    trained = [
        (number, [*context, *answer[: i + 1]])
        for number, (context, answer) in enumerate(sequences)
        for i in range(len(answer))
    ]
    assert len(trained) == len(packed.tokens_N)
    for (number, history), place, token, owner in zip(
        trained, packed.predictor_N.tolist(), packed.tokens_N.tolist(), packed.response_N.tolist(), strict=True
    ):
        assert (owner, read[place], token) == (number, history[:-1], history[-1])
        assert packed.positions_1_T[0, place] == len(history) - 2


def shared_tokens(group: list[Example]) -> int:
    """The tokens of a group, computed for each sequence from all earlier ones: only contexts share."""
    stored: list[list[int]] = []
    total = 0
    for context, answer in group:
        inputs = [*context, *answer[:-1]]
        common = [
            next((i for i, pair in enumerate(zip(context, other, strict=False)) if len(set(pair)) > 1), -1)
            for other in stored
        ]
        lengths = [min(len(context), len(other)) if at < 0 else at for at, other in zip(common, stored, strict=True)]
        total += len(inputs) - max(lengths, default=0)
        stored.append(inputs)
    return total


@given(groups_of_sequences)
def test_shared_tokens_are_stored_once(groups: list[list[Example]]) -> None:
    assert pack(groups, CPU).ids_1_T.numel() == sum(shared_tokens(group) for group in groups)


@settings(max_examples=examples(30))
@given(groups=groups_of_sequences, name=st.sampled_from(["llama", "gemma2", "mistral"]))
def test_random_trees_equal_single_forward_passes(
    groups: list[list[Example]], name: str, twins: dict[str, tuple[Policy, object]]
) -> None:
    policy, model = twins[name]
    with torch.no_grad():
        found_N, expected_N = policy.logprobs(pack(groups, CPU), 1.0)[0], plain.logprobs(model, alone(groups))
    assert torch.allclose(found_N, expected_N, atol=1e-5, rtol=0)


@pytest.fixture(scope="session")
def twins(model_directory: ModelDirectory) -> dict[str, tuple[Policy, object]]:
    """Policies with their plain copies: full attention, sliding windows with soft caps, sliding windows."""
    made = {}
    for name in ("llama", "gemma2", "mistral"):
        policy = random_policy(model_directory(name))
        made[name] = policy, plain.plain_copy(model_directory(name), policy)
    return made


def row(seed: int, turns: int, keep: float) -> PromptGroup:
    made = conversation(Random(seed), turns, keep)  # noqa: S311 - test data
    assert all(len(context) + len(answer) <= LONGEST for context, answer in made)
    members = [
        GroupMember(Source.expert, tuple(answer), "", finished=True, advantage=1.0, context=tuple(context))
        for context, answer in made
    ]
    return PromptGroup(Prompt(seed, "", tuple(made[-1][0]), (), {}), members)


@pytest.mark.parametrize("budget", [1, 25, 10_000])
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_step_trains_every_turn(tau: float, budget: int, llama: Policy, model_directory: ModelDirectory) -> None:
    """Loss and gradient of a supervised (tau 0) and a dft (tau 1) step, divided by the tokens of all turns."""
    groups = [row(1, 6, 1.0), row(2, 4, 0.0), row(3, 1, 1.0), row(4, 3, 0.5)]
    found, result = gradient(llama, groups, tau=tau, token_budget=budget)
    model = plain.plain_copy(model_directory("llama"), llama)
    members = [member for group in groups for member in group.members]
    count = sum(len(member.ids) for member in members)
    logprobs = [plain.sequence_logprobs(model, member.context or (), member.ids) for member in members]
    weights = [one.detach().exp() if tau else torch.ones_like(one) for one in logprobs]
    loss = -(torch.cat(weights) * torch.cat(logprobs)).sum() / count
    assert result.trained_tokens == count
    assert result.loss == pytest.approx(float(loss.detach()), abs=1e-5)
    assert plain.distance(found, plain.gradients(model, loss)) < 1e-5
    for member, one in zip(members, logprobs, strict=True):
        assert member.trainer_logprobs == pytest.approx(one.tolist(), abs=1e-5)
    if budget > 25:
        assert result.prefix_dedup_ratio is not None
        assert result.prefix_dedup_ratio > 2
