"""Options of the policy loss: which combinations are refused, and what `auto` means."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.core.spec.graders import StringCheckGrader
from app.core.spec.job import GroupMethod

GRADER = StringCheckGrader(name="x", input="{{sample.output_text}}", reference="1", operation="eq")
ROLLOUTS = {"expert": 0, "teacher": 0, "self": 4}
GIVEN = {"expert": 1, "teacher": 2, "self": 0}


def method(**options: Any) -> GroupMethod:
    return GroupMethod.model_validate({"grader": GRADER} | options)


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"mask_truncated": True, "group": GIVEN}, "mask_truncated", "set group.self"),
        ({"importance_cap": 2.0, "group": GIVEN}, "importance_cap", "set group.self"),
        (
            {"off_policy_push_down": "none", "group": ROLLOUTS},
            "off_policy_push_down",
            "set group.expert or group.teacher",
        ),
        ({"resampling_rounds": 1, "group": GIVEN}, "resampling_rounds", "set group.self"),
        ({"resampling_rounds": 1, "teacher": {"model": "x"}}, "teacher", "cannot be combined with resampling_rounds"),
        ({"updates_per_batch": 2}, "updates_per_batch", "set group.expert and group.teacher to 0"),
        ({"clip_low": 0.1}, "clip_low", "Set updates_per_batch to at least 2"),
        ({"clip_high": 0.28, "group": ROLLOUTS}, "clip_high", "Set updates_per_batch to at least 2"),
    ],
)
def test_option_without_effect_is_refused(options: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        method(**options)
    [error] = caught.value.errors()
    assert error["loc"] == (field,)


def test_clip_defaults_to_a_fifth_with_several_updates() -> None:
    assert method().clip is None
    assert method(group=ROLLOUTS, updates_per_batch=2).clip == (0.2, 0.2)
    assert method(group=ROLLOUTS, updates_per_batch=2, clip_high=0.28).clip == (0.2, 0.28)


def test_importance_cap_is_2_where_it_is_on() -> None:
    assert [method().resolved_importance_cap(is_on=on) for on in (True, False)] == [2.0, None]
    assert method(importance_cap="off").resolved_importance_cap(is_on=True) is None
    assert method(importance_cap=3).resolved_importance_cap(is_on=False) == 3


def test_stored_settings_are_read_again() -> None:
    """A stored spec names every field, those with their default included."""
    for options in ({}, {"group": GIVEN}, {"group": ROLLOUTS, "updates_per_batch": 2, "clip_low": 0.1}):
        one = method(**options)
        assert GroupMethod.model_validate(one.model_dump(by_alias=True)) == one
