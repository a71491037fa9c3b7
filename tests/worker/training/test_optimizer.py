"""One optimiser step against the same step written out with plain transformers and PEFT."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from app.core.spec.reports import Source
from tests.worker.training import plain
from tests.worker.training.architectures import randomise
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.updates import PLENTY, Recorder, gradient, group, imitated, updater
from worker.training.model import Policy
from worker.training.optimizer import new_optimizer
from worker.training.types import PromptGroup


@pytest.fixture
def directory(model_directory: ModelDirectory) -> Path:
    return model_directory("llama")


@pytest.fixture
def model(llama: Policy, directory: Path) -> Any:
    """The plain twin of `llama`."""
    return plain.plain_copy(directory, llama)


def mixed_groups() -> list[PromptGroup]:
    """Sizes 4, 2 and 5; one failed grade."""
    return [
        group([1.0, 0.0, 0.5, 0.0], seed=1),
        group([0.0, 1.0], seed=2),
        group([0.2, None, 0.9, 0.4, 0.0], seed=3),
    ]


def written_out(model: Any, groups: list[PromptGroup], weigh: Callable[[Tensor], Tensor], temperature: float) -> Tensor:
    """- sum A C(p) log p / N, one sequence at a time; N counts every graded member."""
    total, tokens = torch.zeros(()), 0
    for one in groups:
        for member in one.graded:
            logprobs = plain.sequence_logprobs(model, one.prompt.ids, member.ids, temperature)
            assert member.advantage is not None
            total = total - (member.advantage * weigh(logprobs.detach().exp()) * logprobs).sum()
            tokens += len(member.ids)
    return total / tokens


@pytest.mark.parametrize(
    ("tau", "weigh"),
    [
        pytest.param(0.0, torch.ones_like, id="reinforcement: the on-policy gradient"),
        pytest.param(0.3, lambda p: torch.where(p >= 0.3, 1.0, p), id="gft"),
        pytest.param(1.0, lambda p: p, id="dft"),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_step_is_the_formula_of_its_method(
    tau: float, weigh: Callable[[Tensor], Tensor], temperature: float, llama: Policy, model: Any
) -> None:
    groups = mixed_groups()
    found, result = gradient(llama, groups, tau=tau, temperature=temperature)
    loss = written_out(model, groups, weigh, temperature)
    assert result.loss == pytest.approx(float(loss.detach()), abs=1e-5)
    assert plain.distance(found, plain.gradients(model, loss)) < 1e-5


def test_supervised_step_is_plain_cross_entropy(llama: Policy, model: Any) -> None:
    groups = imitated(5, 1, 8)
    found, result = gradient(llama, groups)
    losses = []
    for one in groups:
        prompt, answer = list(one.prompt.ids), list(one.members[0].ids)
        logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
        labels = torch.tensor([-100] * (len(prompt) - 1) + answer)
        losses.append(functional.cross_entropy(logits[:-1], labels, ignore_index=-100, reduction="sum"))
    loss = torch.stack(losses).sum() / 14
    assert result.loss == pytest.approx(float(loss.detach()), abs=1e-6)
    assert plain.distance(found, plain.gradients(model, loss)) < 2e-6
    assert result.trained_tokens == 14


def test_adamw_equals_torch(llama: Policy, model: Any) -> None:
    """Two steps: the second has moments. Clipped at 1, no weight decay, the rate of the call."""
    ours = updater(llama, new_optimizer(llama))
    theirs = torch.optim.AdamW(list(plain.trained(model).values()), weight_decay=0.0)
    for seed, rate in ((0, 3e-4), (10, 1e-4)):
        groups = imitated(5, 3, 8, seed=seed)
        assert ours.update(groups, rate).applied
        for name, value in plain.gradients(model, written_out(model, groups, torch.ones_like, 1.0)).items():
            plain.trained(model)[name].grad = value
        norm = torch.nn.utils.clip_grad_norm_(list(plain.trained(model).values()), 1.0)
        assert norm > 1
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
    for name, value in plain.trained(model).items():
        assert torch.allclose(llama.trained[name], value, atol=2e-6, rtol=0), name


@pytest.mark.parametrize("budget", [1, 10, 20, 30])
def test_gradient_ignores_micro_batches(budget: int, llama: Policy) -> None:
    whole, expected = gradient(llama, mixed_groups(), tau=0.3)
    parts, result = gradient(llama, mixed_groups(), tau=0.3, token_budget=budget)
    assert plain.distance(parts, whole) < 1e-6
    assert result.loss == pytest.approx(expected.loss, abs=1e-6)
    assert result.trained_tokens == expected.trained_tokens


def test_gradient_ignores_group_and_member_order(llama: Policy) -> None:
    groups = mixed_groups()
    whole, _ = gradient(llama, groups, tau=0.3)
    for one in groups:
        one.members.reverse()
    assert plain.distance(gradient(llama, groups[::-1], tau=0.3)[0], whole) < 1e-6


def tokens_of(*groups: PromptGroup) -> int:
    return sum(len(member.ids) for one in groups for member in one.members)


def test_zero_variance_costs_no_forward_pass(llama: Policy) -> None:
    seen: list[int] = []
    handle = llama.trunk.register_forward_pre_hook(
        lambda _, __, options: seen.append(options["input_ids"].numel()), with_kwargs=True
    )
    flat, live = group([1.0, 1.0, 1.0], seed=1), group([1.0, 0.0], seed=2)
    gradient(llama, [live])
    gradient(llama, [flat, live])
    handle.remove()
    assert seen == [seen[0]] * 2
    assert all(member.mean_nll is None for member in flat.members)


def test_zero_variance_counts_in_n_or_not(llama: Policy) -> None:
    flat, live = group([1.0, 1.0, 1.0], seed=1), group([1.0, 0.0], seed=2)
    alone, _ = gradient(llama, [live])
    counted, result = gradient(llama, [flat, live])
    assert result.trained_tokens == tokens_of(flat, live)
    share = tokens_of(live) / tokens_of(flat, live)
    assert plain.distance(counted, {name: share * value for name, value in alone.items()}) < 1e-6
    dropped, result = gradient(llama, [flat, live], zero_variance="drop")
    assert result.trained_tokens == tokens_of(live)
    assert plain.distance(dropped, alone) < 1e-6


@pytest.mark.parametrize("zero_variance", ["count", "drop"])
def test_step_without_contrast_changes_nothing(zero_variance: str, llama: Policy) -> None:
    optimizer = new_optimizer(llama)
    updater(llama, optimizer).update([group([1.0, 0.0])], 1e-3)
    before = state_of(llama, optimizer)
    groups = [group([1.0, 1.0]), group([None, None]), group([0.0])]
    result = updater(llama, optimizer, zero_variance=zero_variance).update(groups, 1e-3)
    assert (result.loss, result.grad_norm, result.applied) == (0.0, 0.0, False)
    assert_same(state_of(llama, optimizer), before)


def state_of(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of adapter and moments."""
    state = {name: value.detach().clone() for name, value in policy.trained.items()}
    for name, value in policy.trained.items():
        state |= {f"{name}|{key}": moment.clone() for key, moment in optimizer.state[value].items()}
    return state


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_failed_grade_does_not_count_in_n(llama: Policy) -> None:
    one = group([1.0, None, 0.0], lengths=[2, 5, 3])
    assert gradient(llama, [one])[1].trained_tokens == 2 + 3
    assert one.members[1].mean_nll is None


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_non_finite_gradient_skips_the_step(bad: float, llama: Policy) -> None:
    optimizer = new_optimizer(llama)
    engine = updater(llama, optimizer)
    assert engine.update([group([1.0, 0.0])], 1e-3).applied
    before = state_of(llama, optimizer)
    broken = group([1.0, 0.0])
    broken.members[0].advantage = bad
    result = engine.update([broken], 1e-3)
    assert not result.applied
    assert not math.isfinite(result.grad_norm)
    assert_same(state_of(llama, optimizer), before)
    assert all(value.grad is None for value in llama.trained.values())
    assert engine.update([group([1.0, 0.0])], 1e-3).applied


@pytest.mark.parametrize("budget", [1, PLENTY])
def test_single_token_and_truncated_members_train(budget: int, llama: Policy, model: Any) -> None:
    """Empty answers (the end token alone), `max_tokens` 1, and answers that were cut off."""
    groups = [group([1.0, 0.0, 0.0], lengths=[1]), group([0.0, 1.0], seed=1, lengths=[6])]
    for member in groups[1].members:
        member.ids, member.finished = member.ids[:-1], False
    found, result = gradient(llama, groups, token_budget=budget)
    assert math.isfinite(result.loss)
    loss = written_out(model, groups, torch.ones_like, 1.0)
    assert plain.distance(found, plain.gradients(model, loss)) < 1e-5


def kl_written_out(model: Any, reference: Any, groups: list[PromptGroup], temperature: float) -> tuple[Tensor, Tensor]:
    """Value (k3) and gradient (k2) of the mean divergence of all rollouts from the model that `reference` gives."""
    values, slopes = [], []
    for one in groups:
        for member in (member for member in one.members if member.source is Source.self):
            logprobs = plain.sequence_logprobs(model, one.prompt.ids, member.ids, temperature)
            with torch.no_grad(), reference():
                difference = plain.sequence_logprobs(model, one.prompt.ids, member.ids, temperature) - logprobs
            difference = difference.detach().clamp(-20, 20)
            values.append((difference.exp() - difference - 1).clamp(max=10))
            slopes.append((logprobs - logprobs.detach() - difference).square() / 2)
            assert member.kl == pytest.approx(float(values[-1].mean()), rel=1e-4, abs=1e-5)
    return torch.cat(values).mean(), torch.cat(slopes).mean()


def groups_with_kl() -> list[PromptGroup]:
    """Groups with and without contrast, a demonstration, and a failed grade."""
    groups = [*mixed_groups(), group([1.0, 1.0], seed=8)]
    groups[0].members[0].source = Source.expert
    return groups


@pytest.mark.parametrize("zero_variance", ["count", "drop"])
def test_kl_gradient_by_hand(zero_variance: str, llama: Policy, model: Any) -> None:
    """Over the tokens of all rollouts, also without a grade or contrast, whatever the micro-batches; of these only."""
    groups = groups_with_kl()
    options: dict[str, Any] = {"temperature": 0.6, "kl_coefficient": 0.5, "zero_variance": zero_variance}
    found, result = gradient(llama, groups, token_budget=20, **options)
    counted = groups if zero_variance == "count" else groups[:-1]
    loss = written_out(model, counted, torch.ones_like, 0.6)
    value, slope = kl_written_out(model, model.disable_adapter, groups, 0.6)
    assert result.loss == pytest.approx(float(loss.detach() + 0.5 * value), rel=1e-4)
    assert plain.distance(found, plain.gradients(model, loss + 0.5 * slope)) < 1e-5
    assert groups[0].members[0].kl is None
    assert result.computed_tokens == tokens_of(*groups)


def test_kl_trains_groups_without_contrast(llama: Policy, model: Any) -> None:
    """Also if they are all there is, and none of their tokens count in N."""
    groups = [group([1.0, 1.0]), group([None, None], seed=3)]
    found, result = gradient(llama, groups, kl_coefficient=0.5, zero_variance="drop")
    assert result.applied
    value, slope = kl_written_out(model, model.disable_adapter, groups, 1.0)
    assert result.loss == pytest.approx(0.5 * float(value), rel=1e-4)
    assert plain.distance(found, plain.gradients(model, 0.5 * slope)) < 1e-5


def test_kl_of_a_warm_start_is_from_its_adapter(llama: Policy, model: Any) -> None:
    """0 at the first step; later from the adapter that training started from, not from the base model."""
    llama.keep_start()
    start = {name: value.detach().clone() for name, value in llama.trained.items()}
    groups = groups_with_kl()
    _, result = gradient(llama, [group([1.0, 1.0])], kl_coefficient=0.5)
    assert result.grad_norm == pytest.approx(0, abs=1e-6)
    randomise(llama, seed=9)
    moved = {name: value.detach().clone() for name, value in llama.trained.items()}
    plain.copy_adapter(llama, model)

    @contextmanager
    def started() -> Iterator[None]:
        for values in (start, moved):
            for name, value in plain.trained(model).items():
                value.data.copy_(values[name])
            if values is start:
                yield

    found, _ = gradient(llama, groups, kl_coefficient=0.5, token_budget=20)
    reference = []
    for one in groups:
        for member in one.members:
            with torch.no_grad(), started():
                reference.append(plain.sequence_logprobs(model, one.prompt.ids, member.ids))
    assert all(torch.equal(llama.trained[name], moved[name]) for name in moved)
    members = [member for one in groups for member in one.members]
    for member, expected in zip(members, reference, strict=True):
        if member.source is Source.self:
            assert member.reference_logprobs == pytest.approx(expected.tolist(), abs=1e-5)
    slopes = [
        (plain.sequence_logprobs(model, one.prompt.ids, member.ids) - torch.tensor(member.reference_logprobs)).square()
        for one in groups
        for member in one.members
        if member.source is Source.self
    ]
    loss = written_out(model, groups, torch.ones_like, 1.0) + 0.25 * torch.cat(slopes).mean()
    assert plain.distance(found, plain.gradients(model, loss)) < 1e-5


def test_update_annotates_members(llama: Policy, model: Any) -> None:
    one = group([1.0, 0.0])
    gradient(llama, [one], tau=0.3, token_budget=1)
    for member in one.members:
        logprobs = plain.sequence_logprobs(model, one.prompt.ids, member.ids).detach()
        assert member.trainer_logprobs == pytest.approx(logprobs.tolist(), abs=1e-5)
        assert member.mean_nll == pytest.approx(-float(logprobs.mean()), abs=1e-5)
        assert member.mean_p == pytest.approx(float(logprobs.exp().mean()), abs=1e-5)
        assert member.rectified_frac == pytest.approx(float((logprobs.exp() < 0.3).float().mean()))
        assert member.entropy is not None
        assert 0 < member.entropy < math.log(24)


def test_prefix_dedup_ratio_by_hand(llama: Policy) -> None:
    one = group([1.0, 0.0, 0.0], lengths=[3])
    prompt = len(one.prompt.ids)
    assert gradient(llama, [one])[1].prefix_dedup_ratio == (3 * prompt + 6) / (prompt + 6)
    assert gradient(llama, [one], token_budget=1)[1].prefix_dedup_ratio == 1


def test_off_policy_rollout_is_rejected(llama: Policy) -> None:
    llama.version = 3
    current, stale = group([1.0, 0.0]), group([1.0, 0.0], seed=1)
    for member in current.members:
        member.adapter_version = 3
    gradient(llama, [current])
    stale.members[1].adapter_version = 2
    recorder = Recorder(llama)
    with pytest.raises(RuntimeError, match=r"version 2 .* version 3"):
        updater(llama, recorder).update([current, stale], 1e-3)
    assert recorder.gradients is None
