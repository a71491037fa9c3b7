"""Chaos tests of workers: trainers and workers are repeatedly killed, drained and cancelled."""

import os
import random
import signal
import time
from pathlib import Path

import psutil

from app.core import broker
from app.core.accounts.audit import Actor
from app.core.jobs import invariants, lifecycle, queries
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from tests.chaos.clock import Clock
from tests.waiting import all_end, eventually
from tests.worker.conftest import Bench, Plant
from tests.worker.test_kills import adapter, assert_nothing_lost, real, submit, train_through_kills
from tests.worker.test_tasks import trainers

STEPS = 600
KILLS = 5
TARGET_SECONDS = 75 / 60
"""Time for recovery, in leases."""
LEASE_SECONDS = 6.0


def test_row_1_trainer_killed(bench: Bench, tiny_models: Path, tmp_path: Path, clock: Clock) -> None:
    bench.run("train:1")
    reference = submit(real(bench, tiny_models), tmp_path, STEPS)
    reference.runner("").run()
    assert reference.status() is JobStatus.succeeded
    jobs = kills = 0
    repeated = []
    while clock.has_time():
        interrupted = submit(reference, tmp_path, STEPS)
        reached = train_through_kills(interrupted, KILLS, STEPS, random.Random())  # noqa: S311
        assert_nothing_lost(interrupted, STEPS, KILLS)
        assert adapter(interrupted) == adapter(reference)
        with interrupted.database.transaction() as session:
            resumed = [attempt.resumed_from_step for attempt in queries.list_attempts(session, interrupted.job_id)][1:]
        repeated += [before - after for before, after in zip(reached, resumed, strict=True)]
        jobs, kills = jobs + 1, kills + KILLS
    assert (
        max(repeated) <= 20 + 100
    )  # the checkpoint interval, plus the steps reported while the checkpoint was being stored
    clock.note(kills=kills, jobs_of_600_steps=jobs, different_adapters=0, metric_rows_lost_or_duplicated=0)
    clock.note(most_steps_repeated=max(repeated))


def test_row_2_worker_killed(plant: Plant, clock: Clock) -> None:
    job_id = plant.tell("until_stopped")
    death_times, restart_times = [], []
    with plant.default_worker():
        while clock.has_time():
            with plant.quick_worker("one") as first, plant.quick_worker("two") as second:
                eventually(lambda: plant.job(job_id).status == JobStatus.running, 30.0)
                step = plant.job(job_id).step
                eventually(lambda step=step: plant.job(job_id).step > step, 30.0)  # type: ignore[misc]
                time.sleep(random.uniform(0, 2))  # noqa: S311 - at any moment between heartbeats
                attempt = plant.job(job_id).attempt
                owner, other = (
                    (first, second) if str(plant.job(job_id).lease_owner).endswith(f":{first.pid}") else (second, first)
                )
                family = [psutil.Process(pid) for pid in trainers(job_id)]
                start = time.monotonic()
                os.kill(owner.pid, signal.SIGKILL)
                assert all_end(family, 5.0)
                death_times.append(time.monotonic() - start)
                eventually(lambda attempt=attempt: plant.job(job_id).attempt > attempt, 60.0)  # type: ignore[misc]
                restart_times.append(time.monotonic() - start)
                assert other.drain() == 0  # if killed before a step, it would delay the next round by a backoff
    assert max(restart_times) / LEASE_SECONDS <= TARGET_SECONDS + 2 / LEASE_SECONDS
    _assert_invariants(plant, job_id)
    clock.note(kills=len(death_times), jobs_lost=0)
    clock.times("trainer dead after", death_times)
    clock.times("running again after (lease 6 s)", restart_times)


def test_row_4_worker_drained(plant: Plant, clock: Clock) -> None:
    job_id = plant.tell("until_stopped")
    drain_times = []
    while clock.has_time():
        with plant.quick_worker() as worker:
            attempt = plant.job(job_id).attempt
            eventually(lambda attempt=attempt: plant.job(job_id).attempt > attempt, 30.0)  # type: ignore[misc]
            if random.random() < 0.8:  # noqa: S311 - drain the others before their first step
                step = plant.job(job_id).step
                eventually(lambda step=step: plant.job(job_id).step > step, 30.0)  # type: ignore[misc]
            time.sleep(random.uniform(0, 1))  # noqa: S311
            start = time.monotonic()
            assert worker.drain() == 0
            drain_times.append(time.monotonic() - start)
        job = plant.job(job_id)
        assert (job.status, job.crashes) == (JobStatus.queued, 0)
        with plant.database.transaction() as session:
            newest = queries.latest_checkpoints(session, job_id)
        assert (newest[0].step if newest else 0) == job.step
        assert not trainers(job_id)
    assert max(drain_times) <= 30
    assert {attempt.outcome for attempt in plant.attempts(job_id)} == {AttemptOutcome.drained}
    _assert_invariants(plant, job_id)
    clock.note(drains=len(drain_times), steps_lost=0, crashes_counted=0)
    clock.times("drained in", drain_times)


def test_row_20_job_cancelled(plant: Plant, clock: Clock) -> None:
    queued_times: list[float] = []
    running_times: list[float] = []
    with plant.quick_worker():
        while clock.has_time():
            behaviour = random.choice(["hang", "until_stopped", "train_slowly:100"])  # noqa: S311
            job_id = plant.tell(behaviour)
            broker.notify_training(plant.broker_url)
            queued_id = plant.tell("train:3", priority=-1)
            eventually(lambda job_id=job_id: plant.job(job_id).status == JobStatus.running, 30.0)  # type: ignore[misc]
            time.sleep(random.uniform(0, 1.5))  # noqa: S311
            family = [child for pid in trainers(job_id) for child in _family(pid)]
            for cancelled_id, times in ((queued_id, queued_times), (job_id, running_times)):
                start = time.monotonic()
                with plant.database.transaction() as session:
                    lifecycle.cancel(session, Actor(plant.project), cancelled_id)
                plant.wait_for(cancelled_id, JobStatus.cancelled)
                times.append(time.monotonic() - start)
            assert all_end(family, 5.0)
            assert not trainers(job_id)
    assert max(queued_times) <= 1
    assert max(running_times) <= 10
    clock.note(cancelled=len(running_times), processes_left=0)
    clock.times("queued ended in", queued_times)
    clock.times("running ended in", running_times)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _assert_invariants(plant: Plant, job_id: str) -> None:
    with plant.database.transaction() as session:
        breaches = invariants.breaches(session, plant.store.exists)
    assert [breach for breach in breaches if breach.subject == job_id] == []
