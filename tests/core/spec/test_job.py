"""A job spec survives a round trip through JSON."""

import pytest
from pydantic import ValidationError

from app.core.spec.graders import MathGrader
from app.core.spec.job import SETTINGS, GroupMethod, JobSpec, MethodType, PreferenceHyperparameters

GRADER = MathGrader(reference="{{item.answer}}")


@pytest.mark.parametrize("method", list(MethodType))
def test_settings_survive_json(method: MethodType) -> None:
    settings = SETTINGS[method](grader=GRADER)
    spec = JobSpec(model="tiny", method=method, settings=settings, seed=1)
    again = JobSpec.model_validate_json(spec.model_dump_json(by_alias=True))
    assert again == spec
    assert type(again.settings) is type(settings)
    assert (again.group.self_ > 0) is isinstance(settings, GroupMethod)


def test_settings_of_another_method_are_refused() -> None:
    with pytest.raises(ValidationError, match="method 'supervised' needs ImitationMethod"):
        JobSpec(model="tiny", method=MethodType.supervised, settings=GroupMethod(grader=GRADER), seed=1)


def test_beta_defaults_to_openais_value() -> None:
    assert PreferenceHyperparameters().resolved_beta == 0.1
    assert PreferenceHyperparameters(beta=0.5).resolved_beta == 0.5


def test_pairs_have_no_sampled_or_expert_members() -> None:
    group = JobSpec.model_validate({"model": "tiny", "method": "dpo", "settings": {}, "seed": 1}).group
    assert (group.expert, group.teacher, group.self_) == (0, 0, 0)
