"""A job spec survives a round trip through JSON."""

import pytest
from pydantic import ValidationError

from app.core.spec.graders import MathGrader
from app.core.spec.job import GroupMethod, ImitationMethod, JobSpec, MethodType

GRADER = MathGrader(reference="{{item.answer}}")


@pytest.mark.parametrize("method", list(MethodType))
def test_settings_survive_json(method: MethodType) -> None:
    imitates = method in (MethodType.supervised, MethodType.dft)
    settings = ImitationMethod(grader=GRADER) if imitates else GroupMethod(grader=GRADER)
    spec = JobSpec(model="tiny", method=method, settings=settings, seed=1)
    again = JobSpec.model_validate_json(spec.model_dump_json(by_alias=True))
    assert again == spec
    assert type(again.settings) is type(settings)
    assert (again.group.self_ == 0) is imitates


def test_settings_of_another_method_are_refused() -> None:
    with pytest.raises(ValidationError, match="method 'supervised' needs ImitationMethod"):
        JobSpec(model="tiny", method=MethodType.supervised, settings=GroupMethod(grader=GRADER), seed=1)
