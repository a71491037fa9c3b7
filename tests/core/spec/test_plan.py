"""Default values for every `auto`."""

import dataclasses
from typing import Any

import pytest

from app.core.spec.graders import StringCheckGrader
from app.core.spec.job import SETTINGS, JobSpec, MethodType
from app.core.spec.plan import TOKEN_BUDGET, Plan, activation_bytes, learning_rate_multiplier, resolve, token_budget

GRADER = StringCheckGrader(input="{{sample.output_text}}", reference="4", operation="eq")


def spec(method: str = "gft", **hyperparameters: Any) -> JobSpec:
    settings = SETTINGS[MethodType(method)].model_validate({"grader": GRADER, "hyperparameters": hyperparameters})
    return JobSpec(model="tiny", method=MethodType(method), settings=settings, seed=0)


def plan(job: JobSpec, *, rows: int = 1000, parameters: int = 7_000_000_000) -> Plan:
    return resolve(job, rows=rows, parameters=parameters)


@pytest.mark.parametrize("method", ["supervised", "dft"])
@pytest.mark.parametrize(
    ("rows", "n_epochs"),
    [(1, 25), (10, 10), (33, 3), (40, 3), (50, 3), (1000, 3), (8333, 3), (8334, 2), (12_501, 1), (100_000, 1)],
)
def test_imitation_repeats_as_openai_does(method: str, rows: int, n_epochs: int) -> None:
    """3 epochs between 100 and 25,000 examples in all: OpenAI's cookbook."""
    assert plan(spec(method), rows=rows).n_epochs == n_epochs


@pytest.mark.parametrize(
    ("rows", "batch_size", "n_epochs", "total_steps"),
    [(1, 1, 10, 10), (3, 3, 10, 10), (100, 4, 8, 200), (1000, 10, 2, 200), (10_000, 32, 1, 313), (401, 4, 2, 202)],
)
def test_group_methods_aim_at_200_steps(rows: int, batch_size: int, n_epochs: int, total_steps: int) -> None:
    resolved = plan(spec(), rows=rows)
    assert (resolved.batch_size, resolved.n_epochs, resolved.total_steps) == (batch_size, n_epochs, total_steps)


def test_explicit_values_are_kept() -> None:
    resolved = plan(
        spec(
            batch_size=7,
            n_epochs=3,
            learning_rate_multiplier=2.5,
            eval_interval=11,
            eval_samples=13,
            checkpoint_interval=17,
        ),
        rows=70,
    )
    assert resolved.learning_rate == pytest.approx(2.5e-5)
    assert dataclasses.replace(resolved, learning_rate=0.0) == Plan(
        batch_size=7,
        n_epochs=3,
        total_steps=30,
        learning_rate=0.0,
        learning_rate_multiplier=2.5,
        eval_interval=11,
        eval_samples=13,
        checkpoint_interval=17,
    )


def test_batch_is_at_most_the_data() -> None:
    resolved = plan(spec(batch_size=64, n_epochs=2), rows=5)
    assert (resolved.batch_size, resolved.total_steps) == (5, 2)


def test_max_steps_shortens_the_intervals() -> None:
    resolved = plan(spec(max_steps=25))
    assert (resolved.total_steps, resolved.eval_interval, resolved.checkpoint_interval) == (25, 3, 3)
    assert plan(spec(max_steps=10_000)).total_steps == 200


def test_ten_evaluations_and_checkpoints_per_run() -> None:
    assert (plan(spec()).eval_interval, plan(spec()).checkpoint_interval) == (20, 20)
    assert plan(spec(max_steps=1)).eval_interval == 1


def test_held_out_rows_default_to_200() -> None:
    assert plan(spec()).eval_samples == 200
    assert plan(spec(eval_samples=400)).eval_samples == 400


@pytest.mark.parametrize(
    ("method", "base"), [("gft", 1e-5), ("reinforcement", 1e-5), ("supervised", 1e-4), ("dft", 1e-4), ("dpo", 1e-5)]
)
def test_learning_rate_is_base_times_multiplier(method: str, base: float) -> None:
    assert plan(spec(method, learning_rate_multiplier=3.0)).learning_rate == pytest.approx(3 * base)
    assert plan(spec(method)).learning_rate == pytest.approx(base)  # a model of 7e9 parameters


@pytest.mark.parametrize(
    ("parameters", "group", "imitation", "pairs"),
    [
        (70_000_000_000, 1.0, 1.0, 1.0),
        (7_000_000_000, 1.0, 1.0, 1.0),
        (1_500_000_000, 3.7, 1.47, 2.16),
        (135_000_000, 28.6, 2.68, 7.2),
    ],
)
def test_smaller_models_get_a_higher_rate(parameters: int, group: float, imitation: float, pairs: float) -> None:
    assert learning_rate_multiplier(spec("dpo"), parameters) == pytest.approx(pairs, rel=0.01)
    assert learning_rate_multiplier(spec("gft"), parameters) == pytest.approx(group, rel=0.01)
    assert learning_rate_multiplier(spec("supervised"), parameters) == pytest.approx(imitation, rel=0.01)


def test_multiplier_is_capped() -> None:
    assert learning_rate_multiplier(spec("gft"), 1000) == learning_rate_multiplier(spec("gft"), 100) == 30


@pytest.mark.parametrize(
    ("free_bytes", "tokens"),
    [(None, 4096), (0, 4096), (-1e9, 4096), (8 * 2**30, 4096), (40e9, 13_871), (1e12, 32_768)],
)
def test_micro_batches_grow_with_free_memory(free_bytes: float | None, tokens: int) -> None:
    """Llama 3.2 1B: 16 layers, 2,048 wide, MLPs of 8,192, in bf16."""
    kept = activation_bytes(16, 2048, 8192, 2)
    assert kept == 16 * 45_056 * 2
    assert token_budget(free_bytes, kept) == tokens
    assert TOKEN_BUDGET == 4096
