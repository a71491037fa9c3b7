"""The step of preference pairs: TRL's loss and gradient, and the same step written out with plain transformers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch.nn.functional import logsigmoid

from app.core.chat.encoding import Turn
from app.core.spec.reports import Source
from tests.worker.training import plain, trl_dpo
from tests.worker.training.architectures import randomise
from tests.worker.training.updates import PLENTY, gradient
from worker.training.distributed import Ranks
from worker.training.metrics import group_records, step_metrics
from worker.training.model import Policy
from worker.training.out_of_memory import TokenBudget
from worker.training.preference import PairLoss, pair_group
from worker.training.reference import TRAINING, Reference
from worker.training.types import Prompt, PromptGroup

BETA: Final = 0.3
VOCABULARY: Final = 90


class NeverStops:
    """A stop flag of a run that is not stopped."""

    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float) -> bool:
        return False


def pair(line: int, lengths: tuple[int, int], context: int = 9) -> Prompt:
    """A row of random tokens; both answers follow the same prompt."""
    random = torch.Generator().manual_seed(line)
    before, *answers = (
        tuple(int(token) for token in torch.randint(4, VOCABULARY, (length,), generator=random))
        for length in (context, *lengths)
    )
    turns = [Turn(before, answer, f"answer {line}.{k}") for k, answer in enumerate(answers)]
    return Prompt(line, f"prompt {line}", before, (), {}, pair=(turns[0], turns[1]))


PAIRS: Final = [pair(1, (5, 9)), pair(2, (1, 4)), pair(3, (30, 2), context=40), pair(4, (7, 7)), pair(5, (3, 12))]


def groups_of(policy: Policy, prompts: Sequence[Prompt] = PAIRS, budget: int = PLENTY) -> list[PromptGroup]:
    """The pairs of a step, with the current `policy` as the reference."""
    reference = Reference(prompts, [])
    assert reference.compute(policy, TokenBudget(budget, lambda _: None), Ranks(), NeverStops())
    return [pair_group(prompt, reference.of(TRAINING, prompt)) for prompt in prompts]


@pytest.fixture
def policy(chat_policy: Policy) -> Policy:
    """A trained adapter, as a warm start has it."""
    return randomise(chat_policy, seed=1)


@pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own
@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_step_equals_trl(smoothing: float, policy: Policy, chat_directory: Path, tmp_path: Path) -> None:
    """TRL has no label smoothing in its "sigmoid" loss; its "aot" loss of a single pair is the smoothed DPO loss."""
    kind = {"loss_type": ["aot"], "label_smoothing": smoothing} if smoothing else {"loss_type": ["sigmoid"]}
    trainer = trl_dpo.open_trainer(plain.plain_copy(chat_directory, policy), chat_directory, tmp_path, BETA, **kind)
    groups = groups_of(policy)
    randomise(policy, seed=2)  # the policy moves away from its reference
    trl_dpo.set_adapter(trainer, policy.trained)
    found, result = gradient(policy, groups, pair_loss=PairLoss(BETA, smoothing))
    batches = [[one] for one in PAIRS] if smoothing else [PAIRS]
    losses = [trainer.compute_loss(trainer.model, trl_dpo.batch(trainer, pairs)) for pairs in batches]
    loss = torch.stack(losses).mean()
    assert result.loss == pytest.approx(float(loss.detach()), abs=1e-5)
    assert abs(result.loss - math.log(2)) > 0.01
    assert plain.distance(found, trl_dpo.gradients(trainer, loss)) < 1e-5

    metrics = trainer._metrics["train"]
    values = step_metrics(groups, result, None)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert values[name] == pytest.approx(sum(metrics[name]) / len(metrics[name]), abs=1e-5), name
    for name in ("logps/chosen", "logps/rejected"):
        assert values[name] == pytest.approx(sum(metrics[name]) / len(metrics[name]), rel=1e-6), name


def written_out(model: Any, groups: list[PromptGroup]) -> torch.Tensor:
    losses = []
    for group in groups:
        better, worse = (
            plain.sequence_logprobs(model, group.prompt.ids, member.ids).sum() - (member.reference_logprob or 0.0)
            for member in group.members
        )
        losses.append(-logsigmoid(BETA * (better - worse)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("budget", [1, 60, PLENTY])
def test_gradient_ignores_micro_batches(budget: int, policy: Policy, chat_directory: Path) -> None:
    """A pair is never cut, however small the budget."""
    groups = groups_of(policy, budget=budget)
    randomise(policy, seed=2)
    model = plain.plain_copy(chat_directory, policy)
    found, result = gradient(policy, groups, pair_loss=PairLoss(BETA, 0.0), token_budget=budget)
    loss = written_out(model, groups)
    assert result.loss == pytest.approx(float(loss.detach()), abs=1e-5)
    assert plain.distance(found, plain.gradients(model, loss)) < 1e-5
    assert result.trained_tokens == sum(len(member.ids) for group in groups for member in group.members)


def test_first_step_is_ln_2(policy: Policy) -> None:
    groups = groups_of(policy)
    _, result = gradient(policy, groups, pair_loss=PairLoss(BETA, 0.0))
    assert result.loss == pytest.approx(math.log(2), abs=1e-5)
    values = step_metrics(groups, result, None)
    assert values["rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_members_get_reward_and_advantage(policy: Policy) -> None:
    """The advantage is the factor of grad log p, so the inspector shows how strongly a pair pulls."""
    groups = groups_of(policy)
    randomise(policy, seed=2)
    gradient(policy, groups, pair_loss=PairLoss(BETA, 0.1))
    for group in groups:
        better, worse = group.members
        assert (better.source, worse.source) == (Source.preferred, Source.non_preferred)
        for member in group.members:
            ratio = math.fsum(member.trainer_logprobs) - (member.reference_logprob or 0.0)
            assert member.reward == pytest.approx(BETA * ratio, abs=1e-6)
        assert better.reward is not None
        assert worse.reward is not None
        pull = BETA * (0.9 - 1 / (1 + math.exp(worse.reward - better.reward)))
        assert better.advantage == pytest.approx(pull, abs=1e-6)
        assert worse.advantage == pytest.approx(-pull, abs=1e-6)
    [first, *_] = group_records(groups)
    assert [member.source for member in first.members] == ["preferred", "non_preferred"]
    assert first.members[0].reward == groups[0].members[0].reward


def test_shared_prefix_is_computed_once(policy: Policy) -> None:
    one = groups_of(policy, [pair(3, (30, 2), context=40)])
    _, result = gradient(policy, one, pair_loss=PairLoss(BETA, 0.0))
    assert result.packed_tokens == 40 + 29 + 1
    assert result.prefix_dedup_ratio == pytest.approx((40 + 29 + 40 + 1) / 70)


def test_row_without_a_pair_is_rejected() -> None:
    with pytest.raises(ValueError, match="line 7 has no pair"):
        pair_group(Prompt(7, "", (1,), (), {}))
