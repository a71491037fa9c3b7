"""The options of reinforcement: against TRL's GRPOTrainer, and by hand."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from app.core.spec.advantages import group_advantages
from app.core.spec.reports import Source
from tests.worker.training import plain, trl_grpo
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.updates import gradient, group, updater
from worker.training.metrics import loss_metrics, step_metrics
from worker.training.model import Policy
from worker.training.policy_loss import PolicyLoss
from worker.training.types import PromptGroup

MAX_TOKENS: Final = 11
CLIP: Final = (0.1, 0.15)
CAP: Final = 1.2
TRL_TYPES: Final = {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}


def rollouts() -> list[PromptGroup]:
    """Groups of different lengths; one has no contrast."""
    return [
        group([1.0, 0.0, 0.5, 0.0], seed=1),
        group([0.0, 1.0, 0.0, 0.0], seed=2),
        group([1.0, 1.0, 1.0, 1.0], seed=3),
    ]


def nudge(policy: Policy, scale: float = 0.003) -> None:
    """A small update, which moves some ratios over the clip and others not."""
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in policy.trained.values():
            value.add_(scale * torch.randn(value.shape, generator=random))


def second_update(policy: Policy, groups: Sequence[PromptGroup], **options: Any) -> Any:
    """The gradient of a second update on the batch, and its result, after the first one has moved the policy."""
    groups = list(groups)
    gradient(policy, groups, clip=CLIP, **options)
    nudge(policy)
    return gradient(policy, groups, number=1, clip=CLIP, **options)


@pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own
def test_steps_equal_trl(llama: Policy, model_directory: ModelDirectory, chat_directory: Path, tmp_path: Path) -> None:
    """Loss, gradient and clipped share of a second update, by normalisation, with and without importance weights."""
    groups = rollouts()
    members = [member for one in groups for member in one.members]
    random = torch.Generator().manual_seed(8)
    for member in members:
        noise = (0.3 * torch.randn(len(member.ids), generator=random)).tolist()
        member.sampled_logprobs = tuple(noise)  # shifted to the trainer's below
    gradient(llama, groups, clip=CLIP, kl_coefficient=1.0)  # scores every rollout, also those without contrast
    for member in members:
        pairs = zip(member.trainer_logprobs, member.sampled_logprobs, strict=True)
        member.sampled_logprobs = tuple(logprob + noise for logprob, noise in pairs)
    old = {id(member): member.trainer_logprobs for member in members}
    weights = [
        [
            min(math.exp(ours - theirs), CAP)
            for ours, theirs in zip(one.trainer_logprobs, one.sampled_logprobs, strict=True)
        ]
        for one in members
    ]
    model = plain.plain_copy(model_directory("llama"), llama)
    low, high = CLIP
    trainer = trl_grpo.open_trainer(
        model,
        chat_directory,
        tmp_path,
        [1.0, 0.0],
        epsilon=low,
        epsilon_high=high,
        max_completion_length=MAX_TOKENS,
    )
    start = {name: value.detach().clone() for name, value in llama.trained.items()}
    for cap in (None, CAP):
        trainer.use_vllm = cap is not None
        for normalization, loss_type in TRL_TYPES.items():
            llama._set_adapter(start)
            found, result = second_update(
                llama, groups, normalization=normalization, max_tokens=MAX_TOKENS, importance_cap=cap
            )
            for member in members:
                member.trainer_logprobs = old[id(member)]
            trl_grpo.set_adapter(trainer, llama.trained)
            trainer.loss_type = loss_type
            trainer._metrics["train"].clear()
            loss = trainer._compute_loss(trainer.model, trl_grpo.batch(groups, weights if cap else None))
            assert result.loss == pytest.approx(float(loss.detach()), abs=1e-5)
            assert plain.distance(found, trl_grpo.gradients(trainer, loss)) < 1e-4
            clipped = trainer._metrics["train"]
            tokens = sum(len(member.ids) for member in members)
            assert result.clipped_low / tokens == pytest.approx(clipped["clip_ratio/low_mean"][0])
            assert result.clipped_high / tokens == pytest.approx(clipped["clip_ratio/high_mean"][0])
            assert min(result.clipped_low, result.clipped_high) > 0
    values = step_metrics(groups, result, None)
    assert values["sampling/importance_sampling_ratio/mean"] == pytest.approx(
        sum(map(sum, weights[:8])) / sum(map(len, weights[:8])), rel=1e-4
    )
    assert values["gft/importance_truncated_frac"] == pytest.approx(
        sum(w == CAP for row in weights[:8] for w in row) / sum(map(len, weights[:8])), abs=1e-6
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("scaling", "theirs"), [("std", "group"), ("none", "none")])
def test_advantages_equal_trl(
    scaling: Any, theirs: str, chat_policy: Policy, chat_directory: Path, tmp_path: Path
) -> None:
    """TRL's eps is 1e-4, not 1e-6."""
    rewards = [1.0, 0.0, 0.25, 0.0]
    trainer = trl_grpo.open_trainer(
        plain.plain_copy(chat_directory, chat_policy),
        chat_directory,
        tmp_path,
        rewards,
        scale_rewards=theirs,
        max_completion_length=4,
    )
    assert group_advantages(rewards, scaling) == pytest.approx(trl_grpo.advantages(trainer), rel=1e-3)


def test_first_update_of_several_is_the_plain_step(llama: Policy) -> None:
    """The ratio is 1: the gradient is that of a job with one update."""
    expected, _ = gradient(llama, rollouts())
    found, result = gradient(llama, rollouts(), clip=CLIP)
    assert plain.distance(found, expected) < 1e-6
    assert (result.clipped_low, result.clipped_high) == (0, 0)


@pytest.mark.parametrize("normalization", ["token", "sequence", "constant"])
def test_gradient_ignores_micro_batches(normalization: str, llama: Policy) -> None:
    """With every option on, in the second update."""
    start = {name: value.detach().clone() for name, value in llama.trained.items()}

    def step(budget: int) -> Any:
        llama._set_adapter(start)
        groups = with_cut_off(rollouts())
        for member in (member for one in groups for member in one.members):
            member.sampled_logprobs = (-2.0,) * len(member.ids)
        return second_update(
            llama,
            groups,
            normalization=normalization,
            max_tokens=MAX_TOKENS,
            importance_cap=CAP,
            mask_truncated=True,
            kl_coefficient=0.1,
            token_budget=budget,
        )

    whole, expected = step(100_000)
    parts, result = step(20)
    assert plain.distance(parts, whole) < 1e-5
    assert result.loss == pytest.approx(expected.loss, abs=1e-5)
    assert (result.trained_tokens, result.computed_tokens) == (expected.trained_tokens, expected.computed_tokens)


def with_cut_off(groups: list[PromptGroup]) -> list[PromptGroup]:
    """The same groups; the second rollout of each was cut off."""
    for one in groups:
        one.members[1].finished = False
    return groups


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.2])
def test_cut_off_rollouts_are_masked(kl_coefficient: float, llama: Policy) -> None:
    """They have no gradient and do not count in N; their rewards still count in the advantages of their group."""
    groups = with_cut_off(rollouts())
    found, result = gradient(llama, groups, mask_truncated=True, kl_coefficient=kl_coefficient)
    alone = with_cut_off(rollouts())
    for one in alone:
        del one.members[1]
    expected, other = gradient(llama, alone, kl_coefficient=kl_coefficient)
    assert plain.distance(found, expected) < 1e-6
    assert result.trained_tokens == other.trained_tokens
    assert groups[0].members[1].mean_nll is None
    loss = PolicyLoss(0.0, mask_truncated=True)
    assert loss_metrics(groups, result, loss) == {"gft/masked_rollouts": 3.0}
    # A demonstration is never cut off, and without the option nothing is masked.
    groups[0].members[1].source = Source.expert
    assert loss_metrics(groups, result, loss) == {"gft/masked_rollouts": 2.0}
    assert loss_metrics(groups, result, PolicyLoss(0.0)) == {}


def test_answers_of_others_are_not_pushed_down(llama: Policy) -> None:
    """They keep their advantage, their place in the group and in N, and cost no pass; rollouts are pushed down."""
    groups = rollouts()
    below = [next(member for member in one.members if (member.advantage or 0.0) < 0) for one in groups[:2]]
    for member, source in zip(below, (Source.expert, Source.teacher), strict=True):
        member.source = source
    found, result = gradient(llama, groups, pushes_down_all=False)
    assert loss_metrics(groups, result, PolicyLoss(0.0, pushes_down_all=False)) == {"gft/spared_answers": 2.0}
    assert [member.mean_nll for member in below] == [None, None]
    whole, other = gradient(llama, groups)
    for member in below:
        member.advantage = 0.0
    expected, _ = gradient(llama, groups)
    assert plain.distance(found, expected) < 1e-6 < plain.distance(found, whole)
    assert result.trained_tokens == other.trained_tokens
    assert result.computed_tokens == other.computed_tokens - sum(len(member.ids) for member in below)


def test_step_of_cut_off_rollouts_changes_nothing(llama: Policy) -> None:
    groups = [group([1.0, 0.0])]
    for member in groups[0].members:
        member.finished = False
    result = updater(llama, mask_truncated=True).update(groups, 1.0)
    assert (result.loss, result.applied, result.trained_tokens) == (0.0, False, 0)
