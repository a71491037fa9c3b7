"""The workload that estimates count equals the trainer's."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from app.core.estimates.cost import adapter_weights, seconds
from app.core.estimates.workload import Data, Lengths, count, groups_of
from app.core.models import registry
from app.core.models.shape import Shape, shape_of
from app.core.spec.graders import MathGrader
from app.core.spec.hardware import Hardware
from app.core.spec.job import GroupMethod, ImitationMethod, JobSpec, MethodType
from app.core.spec.plan import resolve
from worker.training.batching import DataOrder
from worker.training.model import load_policy


def gft(**settings: Any) -> JobSpec:
    grader = MathGrader(reference="{{item.reference_answer}}")
    method = GroupMethod.model_validate({"grader": grader} | settings)
    return JobSpec(model="tiny", method=MethodType.gft, settings=method, seed=1)


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "most"), [(10, 4, 3, None), (10, 4, 3, 7), (3, 4, 2, 1), (8, 4, 1, 1), (33, 32, 2, 3)]
)
def test_groups_match_the_data_order(rows: int, batch: int, epochs: int, most: int | None) -> None:
    spec = gft(hyperparameters={"batch_size": batch, "n_epochs": epochs, "max_steps": most})
    plan = resolve(spec, rows=rows, parameters=1000)
    order = DataOrder([object()] * rows, plan.batch_size, plan.n_epochs, 1)  # type: ignore[list-item]
    assert groups_of(plan, rows) == sum(len(order.step(step)) for step in range(1, plan.total_steps + 1))


def test_gft_workload_by_hand() -> None:
    """10 rows, 8 with a demonstration and 1.5 teacher answers a row on average; two epochs, 5 rows a step."""
    spec = gft(
        group={"expert": 1, "teacher": 2, "self": 4},
        hyperparameters={"batch_size": 5, "n_epochs": 2, "eval_interval": 3},
        evaluation={"pass_samples": 2},
    )
    plan = resolve(spec, rows=10, parameters=1000)
    workload = count(spec, plan, Data(10, 6, 0.8, 1.5), Lengths(prompt=20, expert=5, teacher=6, own=10))
    assert (workload.steps, workload.groups, workload.rollouts) == (4, 20, 80)
    assert workload.members == pytest.approx(0.8 + 1.5 + 4)
    assert workload.prompt_tokens == 400
    assert workload.response_tokens == pytest.approx(20 * (0.8 * 5 + 1.5 * 6 + 4 * 10))
    # Before the first step, after the third and after the last; each with one greedy answer and two for pass@k.
    assert (workload.evaluations, workload.answers_an_evaluation) == (3, 18)
    assert workload.grader_calls == round(20 * 6.3) + 3 * 18


def test_resampled_groups_are_rolled_out_and_graded() -> None:
    """A fifth of 100 groups has no contrast: 20 are replaced in the first round, 4 in the second."""
    lengths = Lengths(prompt=20, expert=5, teacher=0, own=10)
    group, hyperparameters = {"expert": 1, "self": 4}, {"batch_size": 10, "n_epochs": 1}
    found = []
    for rounds in (0, 2):
        spec = gft(group=group, hyperparameters=hyperparameters, resampling_rounds=rounds)
        found.append(count(spec, resolve(spec, rows=100, parameters=1000), Data(100, 0, 1.0, 0.0), lengths))
    once, resampled = found
    assert (once.rollouts, once.grader_calls) == (400, 500)
    assert (resampled.rollouts, resampled.grader_calls) == (400 + 24 * 4, 500 + 24 * 5)
    assert resampled.response_tokens == once.response_tokens
    assert (once.live_share, resampled.live_share) == pytest.approx((1 - 0.2, 1 - 0.2**3))
    shape = Shape(25_000_000, 25_000_000, 100_000_000, 2, 32, 64, 16, 99)
    hardware = Hardware(processor="x", cores=2, threads=1, memory_bytes=10**9)
    before, after = (seconds(gft(group=group, resampling_rounds=2), one, shape, hardware) for one in found)
    assert after.rollout > before.rollout
    assert after.grading == pytest.approx(before.grading * 1.24)
    assert after.update > before.update


def test_teacher_gets_one_request_per_row() -> None:
    group = {"expert": 1, "teacher": 2, "self": 4}
    remote = {"model": "m", "base_url": "https://x.example/v1"}
    lengths = Lengths(prompt=20, expert=5, teacher=0, own=10)
    for teacher, per_row, requests in ((remote, 1.5, 6), (remote, 2.0, 0), ({"model": "tiny"}, 0.0, 0)):
        spec = gft(group=group, teacher=teacher, hyperparameters={"batch_size": 4, "max_steps": 2})
        plan = resolve(spec, rows=10, parameters=1000)
        workload = count(spec, plan, Data(10, 0, 1.0, per_row), lengths)
        assert (workload.groups, workload.teacher_requests, workload.members) == (6, requests, 7)
        assert workload.response_tokens == 6 * (5 + 2 * 5 + 4 * 10)


def test_imitation_needs_no_rollouts() -> None:
    spec = JobSpec(model="tiny", method=MethodType.supervised, settings=ImitationMethod(), seed=1)
    plan = resolve(spec, rows=10, parameters=1000)
    workload = count(spec, plan, Data(10, 6, 1.0, 3.0), Lengths(20, 5, 6, 0))
    assert (workload.rollouts, workload.grader_calls, workload.answers_an_evaluation) == (0, 0, 0)
    assert workload.response_tokens == workload.groups * 5


def test_pairs_have_two_answers_and_a_reference() -> None:
    spec = JobSpec.model_validate({"model": "tiny", "method": "dpo", "settings": {}, "seed": 1})
    plan = resolve(spec, rows=10, parameters=1000)
    workload = count(spec, plan, Data(10, 6, 1.0, 0.0), Lengths(20, 5, 0, 8))
    assert (workload.members, workload.rollouts, workload.grader_calls) == (2, 0, 0)
    assert workload.response_tokens == workload.groups * 2 * 5
    assert workload.reference_tokens == 16 * (20 + 2 * 5)  # once, whatever the number of epochs
    shape = Shape(25_000, 25_000, 100_000, 2, 32, 64, 16, 99)
    hardware = Hardware(processor="x", cores=2, threads=1, memory_bytes=10**9)
    without = dataclasses.replace(workload, reference_tokens=0.0)
    assert seconds(spec, workload, shape, hardware).setup > seconds(spec, without, shape, hardware).setup


# peft 0.21 uses a deprecated name of transformers 5; remove this with peft's next release.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_shape_and_adapter_match_torch(tiny_models: Path) -> None:
    shape = shape_of(registry.resolve("tiny", tiny_models))
    assert shape is not None
    policy = load_policy(tiny_models / "tiny", gft().hyperparameters.lora, 1)
    config = policy.causal.config
    assert (shape.layers, shape.hidden) == (config.num_hidden_layers, config.hidden_size)
    assert (shape.intermediate, shape.kv_width, shape.vocabulary) == (config.intermediate_size, 16, config.vocab_size)
    assert shape.parameters == policy.base_parameters
    assert adapter_weights(gft(), shape) == sum(weight.numel() for weight in policy.trained.values())


def test_unknown_model_gets_a_shape_of_its_size(tmp_path: Path) -> None:
    for name, layers, hidden in (("smollm2-135m-instruct", 30, 576), ("qwen2.5-1.5b-instruct", 28, 1536)):
        shape = shape_of(registry.resolve(name, tmp_path))
        assert isinstance(shape, Shape)
        assert not shape.is_exact
        assert 0.4 < shape.layers / layers < 2.5
        assert 0.4 < shape.hidden / hidden < 2.5
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    assert shape_of(registry.resolve("own", tmp_path)) is None
