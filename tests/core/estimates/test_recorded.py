"""The calibration on jobs that really ran: three models on one thread of a busy CPU, 15 jobs (recorded.json).

Each is estimated from the others, as an installation would that had run those.
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


def asked(job: Any) -> PlannedJob:
    spec = JobSpec.model_validate(
        {"model": job["model"], "method": job["method"], "settings": job["settings"], "seed": 1}
    )
    shape = Shape(**RECORDED["shapes"][job["model"]])
    rows, held_out = RECORDED["rows"], job["held_out_rows"]
    plan = resolve(spec, rows=rows, held_out_rows=held_out, parameters=shape.parameters)
    data = Data(rows=rows, held_out_rows=held_out, expert_share=1.0, teachers_a_row=3.0)
    return PlannedJob(spec, job["model"], plan, data, Texts(**RECORDED["texts"]), shape)


def observed(job: Any) -> Observation:
    there = shortened(asked(job), job["steps"])
    lengths = mean_lengths(there, job["mean_tokens"])
    found = ratios(there, BOX, lengths, Seconds(**job["parts"]), job["peak_memory_bytes"])
    return Observation(job["model"], BOX.device, found)


def estimated(number: int, *, learnt: bool) -> Estimate:
    others = [observed(job) for at, job in enumerate(JOBS) if at != number]
    return estimate(asked(JOBS[number]), BOX, others if learnt else [])


@pytest.fixture(scope="module")
def learnt() -> list[Estimate]:
    return [estimated(number, learnt=True) for number in range(len(JOBS))]


def test_range_contains_the_measured_jobs(learnt: list[Estimate]) -> None:
    """Nine of ten are promised; at least twelve of fifteen are asked for."""
    seconds = [
        one.seconds.low <= job["seconds"] <= one.seconds.high
        for one, job in zip(learnt, JOBS, strict=True)
        if one.seconds
    ]
    memory = [
        one.peak_memory_bytes.low <= job["peak_memory_bytes"] <= one.peak_memory_bytes.high
        for one, job in zip(learnt, JOBS, strict=True)
        if one.peak_memory_bytes
    ]
    tokens = [
        one.tokens.trained.low * 0.999 <= job["trained_tokens"] <= one.tokens.trained.high * 1.001
        for one, job in zip(learnt, JOBS, strict=True)
    ]
    assert len(seconds) == len(memory) == len(JOBS) == 15
    assert sum(seconds) >= 12
    assert sum(memory) >= 12
    assert sum(tokens) >= 12


def test_finished_jobs_improve_the_estimate(learnt: list[Estimate]) -> None:
    before = [estimated(number, learnt=False) for number in range(len(JOBS))]

    def width(made: list[Estimate]) -> float:
        return statistics.median(one.seconds.high / one.seconds.low for one in made if one.seconds)

    def off(made: list[Estimate]) -> float:
        return statistics.median(
            math.exp(abs(math.log(one.seconds.expected / job["seconds"])))
            for one, job in zip(made, JOBS, strict=True)
            if one.seconds
        )

    assert width(learnt) < width(before) / 2
    assert off(learnt) < off(before)
    assert off(learnt) < 1.5
