"""Forecasts of whether a job fits on the running workers."""

import pytest

from app.core.estimates.calibration import Observation
from app.core.estimates.estimate import PlannedJob, Texts
from app.core.estimates.worker_fit import MemoryFit, forecast
from app.core.estimates.workload import Data
from app.core.models.shape import Shape
from app.core.spec.hardware import Hardware
from app.core.spec.job import JobSpec
from app.core.spec.plan import resolve
from tests.core.estimates.test_workload import gft

SEVEN_B = Shape(7_600_000_000, 7_600_000_000, 15_200_000_000, 28, 3584, 18944, 512, 152_000)


def gpu(name: str, gigabytes: float, processes: int = 1) -> Hardware:
    memory = round(gigabytes * 1e9)
    return Hardware(
        accelerator=name,
        accelerators=processes,
        accelerator_memory_bytes=memory,
        processes=processes,
        memory_bytes=64 * 10**9,
    )


def planned(spec: JobSpec) -> PlannedJob:
    plan = resolve(spec, rows=1000, parameters=SEVEN_B.parameters)
    return PlannedJob(spec, "7b", plan, Data(1000, 0, 1.0, 3.0), Texts(1200, 400, 400, "characters"), SEVEN_B)


JOB = planned(gft(hyperparameters={"batch_size": 8, "n_epochs": 1}))
SMALL, LARGE = gpu("NVIDIA L4", 16), gpu("NVIDIA H100 80GB HBM3", 85)


def test_small_worker_is_skipped() -> None:
    result = forecast(JOB, [("small:1", SMALL), ("large:1", LARGE)], [])
    assert [(worker.name, worker.verdict) for worker in result.workers] == [
        ("large:1", "fits"),
        ("small:1", "does_not_fit"),
    ]
    assert (result.verdict, result.estimate.device) == (MemoryFit.fits, LARGE.device)
    assert "85 GB of NVIDIA H100 80GB HBM3 (worker large:1)" in result.reason


def test_no_fit_reason_names_a_remedy() -> None:
    result = forecast(JOB, [("small:1", SMALL), ("smaller:1", gpu("NVIDIA L4", 8))], [])
    assert result.verdict is MemoryFit.does_not_fit
    assert "no worker has more than the 16 GB" in str(result.reason)
    quantised = planned(gft(hyperparameters={"batch_size": 8, "n_epochs": 1, "base_precision": "4bit"}))
    assert forecast(quantised, [("small:1", SMALL)], []).verdict is MemoryFit.tight


def test_gpus_share_a_base_too_large_for_one() -> None:
    eight = gpu("NVIDIA L4", 16, processes=8)
    result = forecast(JOB, [("one:1", SMALL), ("eight:1", eight)], [])
    assert [(worker.name, worker.verdict) for worker in result.workers] == [
        ("eight:1", "tight"),
        ("one:1", "does_not_fit"),
    ]
    assert "micro-batches do not shrink" in result.reason
    whole = planned(gft(hyperparameters={"batch_size": 8, "n_epochs": 1, "sharding": "none"}))
    assert forecast(whole, [("eight:1", eight)], []).verdict is MemoryFit.does_not_fit


def test_smaller_micro_batches_make_the_fit_tight() -> None:
    needed = forecast(JOB, [("w:1", SMALL)], []).estimate
    assert needed.peak_memory_bytes is not None
    assert needed.least_memory_bytes is not None
    assert needed.least_memory_bytes.expected < needed.peak_memory_bytes.expected
    room = gpu("NVIDIA H100", (needed.peak_memory_bytes.expected + needed.peak_memory_bytes.high) / 2e9 + 1.2)
    assert forecast(JOB, [("w:1", room)], []).verdict is MemoryFit.tight
    observations = [Observation("7b", room.device, {"memory": 0.0}) for _ in range(20)]
    assert forecast(JOB, [("w:1", room)], observations).verdict is MemoryFit.fits


def test_estimate_without_worker_has_no_time() -> None:
    result = forecast(JOB, [], [])
    assert (result.verdict, result.workers) == (MemoryFit.no_worker, ())
    assert (result.estimate.seconds, result.estimate.peak_memory_bytes, result.estimate.device) == (None, None, None)
    assert result.estimate.tokens.prompt.expected == pytest.approx(1000 * 300)
    assert result.estimate.rollouts == 4000


def test_fastest_fitting_worker_comes_first() -> None:
    slow, two = gpu("NVIDIA A100-SXM4-80GB", 85), gpu("NVIDIA H100 80GB HBM3", 85, processes=2)
    result = forecast(JOB, [("a:1", slow), ("b:1", LARGE), ("c:1", two)], [])
    assert [worker.name for worker in result.workers] == ["c:1", "b:1", "a:1"]


def test_range_narrows_with_every_job() -> None:
    widths = []
    for jobs in (0, 1, 10):
        ratios = dict.fromkeys(("setup", "rollout", "grading", "update", "rest", "given_tokens", "own_tokens"), 0.3)
        observations = [Observation("7b", LARGE.device, ratios) for _ in range(jobs)]
        result = forecast(JOB, [("w:1", LARGE)], observations).estimate
        assert result.seconds is not None
        assert result.parts is not None
        assert result.seconds.low < result.seconds.expected < result.seconds.high
        assert sum(result.parts.values()) == pytest.approx(result.seconds.expected)
        assert result.based_on.same_jobs == jobs
        widths.append(result.seconds.high / result.seconds.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[2] < widths[0] / 3
