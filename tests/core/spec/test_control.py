"""The spec and the plan of a job's control."""

from typing import Any

import pytest

from app.core.spec.control import control_spec
from app.core.spec.job import GroupMethod, GroupMix, JobSpec, MethodType
from app.core.spec.plan import resolve

GRADER = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "operation": "eq",
    "reference": "4",
}


def job(method: str, control: str, fields: dict[str, Any] | None = None, **settings: Any) -> JobSpec:
    whole = {"model": "tiny", "method": method, "seed": 7, "control": control}
    return JobSpec.model_validate(whole | {"settings": {"grader": GRADER} | settings} | (fields or {}))


def test_control_shares_seed_and_settings() -> None:
    shared: dict[str, Any] = {"batch_size": 2, "lora": {"r": 4}, "max_length": 64}
    spec = job(
        "gft",
        "supervised",
        {"suffix": "sums", "gates": ["vs control >= 0"], "alias": "prod", "metadata": {"name": "a", "team": "b"}},
        hyperparameters=shared | {"learning_rate_multiplier": 3},
        sampling={"max_tokens": 9},
    )
    control = control_spec(spec)
    assert (control.method, control.seed, control.model) == (MethodType.supervised, 7, "tiny")
    own, theirs = (one.hyperparameters.model_dump(include=set(shared)) for one in (spec, control))
    assert own == theirs
    assert control.hyperparameters.learning_rate_multiplier == "auto", "the base rates differ"
    assert (control.settings.grader, control.settings.sampling) == (spec.settings.grader, spec.settings.sampling)
    assert (control.gates, control.alias, control.control) == ((), None, None)
    assert (control.suffix, control.metadata) == ("sums-control", {"team": "b"})


def test_control_of_same_base_rate_keeps_it() -> None:
    spec = job("supervised", "dft", hyperparameters={"learning_rate_multiplier": 3})
    assert control_spec(spec).hyperparameters.learning_rate_multiplier == 3


@pytest.mark.parametrize(
    ("method", "control", "group", "expected"),
    [
        ("gft", "reinforcement", {"expert": 1, "teacher": 2, "self": 3}, GroupMix(expert=0, teacher=0, self_=6)),
        ("reinforcement", "gft", {"expert": 0, "teacher": 0, "self": 10}, GroupMix(expert=1, teacher=3, self_=6)),
    ],
)
def test_group_methods_compare_as_many_answers(
    method: str, control: str, group: dict[str, int], expected: GroupMix
) -> None:
    assert control_spec(job(method, control, group=group)).group == expected


@pytest.mark.parametrize("method", MethodType)
@pytest.mark.parametrize("control", MethodType)
def test_every_pair_of_methods_has_a_spec(method: MethodType, control: MethodType) -> None:
    spec = control_spec(job(method, control))
    assert JobSpec.model_validate(spec.model_dump(mode="json", by_alias=True)) == spec


def test_setting_that_control_cannot_have_is_default() -> None:
    graded = job("gft", "reinforcement", demonstrations="graded", off_policy_push_down="none", mask_truncated=True)
    settings = control_spec(graded).settings
    assert isinstance(settings, GroupMethod)
    assert (settings.demonstrations, settings.off_policy_push_down, settings.mask_truncated) == ("all", "full", True)
    assert control_spec(graded.model_copy(update={"control": MethodType.dft})).grades_demonstrations
    group = {"expert": 0, "teacher": 0, "self": 4}
    repeated = control_spec(job("reinforcement", "gft", group=group, updates_per_batch=2)).settings
    assert isinstance(repeated, GroupMethod)
    assert repeated.updates_per_batch == 1


def test_control_takes_the_steps_of_its_job() -> None:
    """Imitation alone would take 3 epochs; with fewer rows it repeats them."""
    spec = job("gft", "supervised")
    budget = resolve(spec, rows=400, parameters=10**9)
    assert (budget.batch_size, budget.total_steps) == (4, 200)
    plan = resolve(control_spec(spec), rows=100, parameters=10**9, budget=budget)
    assert (plan.batch_size, plan.total_steps, plan.n_epochs) == (4, 200, 8)
    assert (plan.eval_interval, plan.checkpoint_interval) == (budget.eval_interval, budget.checkpoint_interval)
