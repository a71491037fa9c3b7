"""The calibration of estimates with finished jobs: values computed by hand, with zero to many jobs."""

import math
import random

import pytest

from app.core.estimates.calibration import PRIOR, Observation, fit
from app.core.estimates.cost import FORMULA

UPDATE = PRIOR["update"]


def observations(*ratios: float, model: str = "m", device: str = "d", formula: int = FORMULA) -> list[Observation]:
    return [Observation(model, device, {"update": ratio}, formula) for ratio in ratios]


def test_prior_spread_without_jobs() -> None:
    fitted = fit([], "update", "m", "d")
    assert fitted.mean == 0
    assert fitted.deviation == pytest.approx(math.sqrt(UPDATE.device**2 + UPDATE.model**2 + UPDATE.job**2))
    assert fitted.at(0) == 1
    assert fitted.at(1.645) == pytest.approx(1 / fitted.at(-1.645))


def test_one_job_moves_and_narrows_the_factor() -> None:
    """Prior variance 0.49 + 0.1225, noise 0.04: the mean moves by 0.6125 / 0.6525 of the observed value."""
    fitted = fit(observations(1.0), "update", "m", "d")
    assert fitted.mean == pytest.approx(0.6125 / 0.6525)
    assert fitted.deviation == pytest.approx(math.sqrt(0.6125 * 0.04 / 0.6525 + 0.04))


def test_many_jobs_leave_the_noise_between_jobs() -> None:
    jobs = random.Random(7)  # noqa: S311
    for spread in (0.05, 0.4):
        fitted = fit(observations(*(jobs.gauss(0.7, spread) for _ in range(200))), "update", "m", "d")
        assert fitted.mean == pytest.approx(0.7, abs=0.1)
        assert fitted.deviation == pytest.approx(spread, rel=0.2)


def test_other_models_on_the_device_help_less() -> None:
    none = fit([], "update", "m", "d")
    other = fit(observations(1.0, 1.0, 1.0, model="other"), "update", "m", "d")
    same = fit(observations(1.0, 1.0, 1.0), "update", "m", "d")
    assert same.deviation < other.deviation < none.deviation
    assert 0 < other.mean < same.mean < 1
    # Observed through a model with three jobs. Its noise is 4 x 0.04 / 6: four prior observations and two degrees of
    # freedom.
    weight = 1 / (UPDATE.model**2 + 0.16 / 6 / 3)
    assert other.mean == pytest.approx(weight / (weight + 1 / UPDATE.device**2))


def test_other_devices_and_formulas_are_ignored() -> None:
    nothing = fit([], "update", "m", "d")
    assert fit(observations(1.0, device="e") + observations(1.0, formula=FORMULA - 1), "update", "m", "d") == nothing
    assert fit([Observation("m", "d", {"rollout": 1.0})], "update", "m", "d") == nothing
    assert fit(observations(1.0, device="e"), "update", "m", None) == fit(observations(1.0), "update", "m", "d")
