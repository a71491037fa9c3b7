"""The comparison of an engine's log-probs with those of training."""

import json
import math
from pathlib import Path

import pytest

from app.core.inference import probe
from app.core.inference.errors import AdapterCheckFailed
from app.core.inference.probe import TOLERANCE, Probe, check, check_differs, distances

STORED = Probe(prompt_ids=(1, 2), completion_ids=(3, 4), logprobs=(-1.0, -2.0), base_logprobs=(-3.0, -5.0))


def test_distances_are_of_the_completion_only() -> None:
    found = distances(STORED, [-9.0, -1.1, -2.3])
    assert (found.to_adapter, found.to_base, found.of_adapter) == pytest.approx((0.2, 2.3, 2.5))


@pytest.mark.parametrize(
    ("engine", "passes"),
    [
        ([-1.0, -2.0], True),
        ([-1.0 - TOLERANCE, -2.0 + TOLERANCE / 2], True),
        ([-1.0, -2.0 - 3 * TOLERANCE], False),
        ([-3.0, -5.0], False),  # the base model's
        ([math.nan, -2.0], False),
    ],
)
def test_check_of_engine(engine: list[float], passes: bool) -> None:
    found = distances(STORED, [-9.0, *engine])
    if passes:
        check(found)
        return
    with pytest.raises(AdapterCheckFailed, match=f"by {found.to_adapter:.3f} a token"):
        check(found)


def test_base_model_fails_for_a_small_adapter() -> None:
    """The limit alone would not detect it."""
    small = STORED.model_copy(update={"base_logprobs": (-1.0 - TOLERANCE, -2.0 - 1.5 * TOLERANCE)})
    check(distances(small, [-9.0, -1.0 - TOLERANCE / 3, -2.0]))
    with pytest.raises(AdapterCheckFailed, match="nearer to the base model's"):
        check(distances(small, [-9.0, *small.base_logprobs]))


def test_untrained_adapter_passes() -> None:
    check(distances(STORED.model_copy(update={"base_logprobs": STORED.logprobs}), [-9.0, -1.01, -2.0]))


def test_equal_logprobs_fail_without_a_probe() -> None:
    check_differs([-1.0, -2.0], [-1.0, -2.0001])
    with pytest.raises(AdapterCheckFailed, match="answers with the base model"):
        check_differs([-1.0, -2.0], [-1.0, -2.0])


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps(STORED.model_dump() | {"logprobs": [-1.0]})])
def test_unusable_probe_counts_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text(content)
    assert probe.read(tmp_path) is None
    (tmp_path / "probe.json").write_text(STORED.model_dump_json())
    assert probe.read(tmp_path) == STORED
