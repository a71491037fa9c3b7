"""The calibration with recorded jobs: 15 jobs of three models on one thread of a busy CPU (recorded.json).

Each job is estimated from the other 14, as in an installation that has run those.
"""

import json
import math
import statistics
from pathlib import Path
from typing import Any, Final

import pytest

from app.core.estimates.calibration import Observation
from app.core.estimates.cost import Seconds
from app.core.estimates.estimate import Estimate, PlannedJob, Texts, estimate
from app.core.estimates.measurements import mean_lengths, ratios, shortened
from app.core.estimates.workload import Data
from app.core.models.shape import Shape
from app.core.spec.hardware import Hardware
from app.core.spec.job import JobSpec
from app.core.spec.plan import resolve

RECORDED: Final = json.loads(Path(__file__).with_name("recorded.json").read_text())
BOX: Final = Hardware(processor="AMD EPYC", cores=2, threads=1, memory_bytes=25 * 10**9)
JOBS: Final[list[Any]] = RECORDED["jobs"]


def planned(job: Any) -> PlannedJob:
    spec = JobSpec.model_validate(
        {"model": job["model"], "method": job["method"], "settings": job["settings"], "seed": 1}
    )
    shape = Shape(**RECORDED["shapes"][job["model"]], active=RECORDED["shapes"][job["model"]]["parameters"])
    rows, held_out = RECORDED["rows"], job["held_out_rows"]
    plan = resolve(spec, rows=rows, parameters=shape.parameters)
    data = Data(rows=rows, held_out_rows=held_out, expert_share=1.0, teachers_a_row=3.0)
    return PlannedJob(spec, job["model"], plan, data, Texts(**RECORDED["texts"]), shape)


def observed(job: Any) -> Observation:
    job_as_run = shortened(planned(job), job["steps"])
    lengths = mean_lengths(job_as_run, job["mean_tokens"])
    observed_ratios = ratios(job_as_run, BOX, lengths, Seconds(**job["parts"]), job["peak_memory_bytes"])
    return Observation(job["model"], BOX.device, observed_ratios)


def estimated(number: int, *, calibrated: bool) -> Estimate:
    others = [observed(job) for at, job in enumerate(JOBS) if at != number]
    return estimate(planned(JOBS[number]), BOX, others if calibrated else [])


@pytest.fixture(scope="module")
def calibrated() -> list[Estimate]:
    return [estimated(number, calibrated=True) for number in range(len(JOBS))]


def test_range_contains_the_measured_jobs(calibrated: list[Estimate]) -> None:
    """The ranges promise nine of ten; the test requires at least twelve of fifteen."""
    seconds = [
        result.seconds.low <= job["seconds"] <= result.seconds.high
        for result, job in zip(calibrated, JOBS, strict=True)
        if result.seconds
    ]
    memory = [
        result.peak_memory_bytes.low <= job["peak_memory_bytes"] <= result.peak_memory_bytes.high
        for result, job in zip(calibrated, JOBS, strict=True)
        if result.peak_memory_bytes
    ]
    tokens = [
        result.tokens.trained.low * 0.999 <= job["trained_tokens"] <= result.tokens.trained.high * 1.001
        for result, job in zip(calibrated, JOBS, strict=True)
    ]
    assert len(seconds) == len(memory) == len(JOBS) == 15
    assert sum(seconds) >= 12
    assert sum(memory) >= 12
    assert sum(tokens) >= 12


def test_finished_jobs_improve_the_estimate(calibrated: list[Estimate]) -> None:
    before = [estimated(number, calibrated=False) for number in range(len(JOBS))]

    def width(estimates: list[Estimate]) -> float:
        return statistics.median(result.seconds.high / result.seconds.low for result in estimates if result.seconds)

    def typical_error(estimates: list[Estimate]) -> float:
        return statistics.median(
            math.exp(abs(math.log(result.seconds.expected / job["seconds"])))
            for result, job in zip(estimates, JOBS, strict=True)
            if result.seconds
        )

    assert width(calibrated) < width(before) / 2
    assert typical_error(calibrated) < typical_error(before)
    assert typical_error(calibrated) < 1.5
