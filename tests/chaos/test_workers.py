"""Trainers and workers are killed, drained and told to cancel, again and again."""

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
"""Of recovery, in leases."""
LEASE_SECONDS = 6.0


def test_row_1_trainers_are_killed(bench: Bench, tiny_models: Path, tmp_path: Path, clock: Clock) -> None:
    bench.run("train:1")
    whole = submit(real(bench, tiny_models), tmp_path, STEPS)
    whole.runner("").run()
    assert whole.status() is JobStatus.succeeded
    jobs = kills = 0
    repeated = []
    while clock.go_on():
        broken = submit(whole, tmp_path, STEPS)
        reached = train_through_kills(broken, KILLS, STEPS)
        assert_nothing_lost(broken, STEPS, KILLS)
        assert adapter(broken) == adapter(whole)
        with broken.database.transaction() as session:
            resumed = [one.resumed_from_step for one in queries.list_attempts(session, broken.job_id)][1:]
        repeated += [before - after for before, after in zip(reached, resumed, strict=True)]
        jobs, kills = jobs + 1, kills + KILLS
    assert max(repeated) <= 20 + 100  # the interval, and what was reported while the checkpoint was on its way
    clock.note(kills=kills, jobs_of_600_steps=jobs, different_adapters=0, metric_rows_lost_or_duplicated=0)
    clock.note(most_steps_repeated=max(repeated))


def test_row_2_workers_are_killed(plant: Plant, clock: Clock) -> None:
    job_id = plant.tell("until_stopped")
    dead, running = [], []
    with plant.default_worker():
        while clock.go_on():
            with plant.quick_worker("one") as one, plant.quick_worker("two") as two:
                eventually(lambda: plant.job(job_id).status == JobStatus.running, 30.0)
                step = plant.job(job_id).step
                eventually(lambda step=step: plant.job(job_id).step > step, 30.0)  # type: ignore[misc]
                time.sleep(random.uniform(0, 2))  # noqa: S311 - anywhere in the rhythm of heartbeats
                epoch = plant.job(job_id).epoch
                owner, other = (one, two) if str(plant.job(job_id).lease_owner).endswith(f":{one.pid}") else (two, one)
                family = [psutil.Process(pid) for pid in trainers(job_id)]
                begun = time.monotonic()
                os.kill(owner.pid, signal.SIGKILL)
                assert all_end(family, 5.0)
                dead.append(time.monotonic() - begun)
                eventually(lambda epoch=epoch: plant.job(job_id).epoch > epoch, 60.0)  # type: ignore[misc]
                running.append(time.monotonic() - begun)
                assert other.drain() == 0  # killed before a step, it would cost the next round a back-off
    assert max(running) / LEASE_SECONDS <= TARGET_SECONDS + 2 / LEASE_SECONDS
    _assert_sound(plant, job_id)
    clock.note(kills=len(dead), jobs_lost=0)
    clock.times("trainer dead after", dead)
    clock.times("running again after (lease 6 s)", running)


def test_row_4_workers_are_drained(plant: Plant, clock: Clock) -> None:
    job_id = plant.tell("until_stopped")
    took = []
    while clock.go_on():
        with plant.quick_worker() as worker:
            epoch = plant.job(job_id).epoch
            eventually(lambda epoch=epoch: plant.job(job_id).epoch > epoch, 30.0)  # type: ignore[misc]
            if random.random() < 0.8:  # noqa: S311 - the others are drained before they have trained
                step = plant.job(job_id).step
                eventually(lambda step=step: plant.job(job_id).step > step, 30.0)  # type: ignore[misc]
            time.sleep(random.uniform(0, 1))  # noqa: S311
            begun = time.monotonic()
            assert worker.drain() == 0
            took.append(time.monotonic() - begun)
        job = plant.job(job_id)
        assert (job.status, job.crashes) == (JobStatus.queued, 0)
        with plant.database.transaction() as session:
            newest = queries.latest_checkpoints(session, job_id)
        assert (newest[0].step if newest else 0) == job.step
        assert not trainers(job_id)
    assert max(took) <= 30
    assert {one.outcome for one in plant.attempts(job_id)} == {AttemptOutcome.drained}
    _assert_sound(plant, job_id)
    clock.note(drains=len(took), steps_lost=0, attempts_charged=0)
    clock.times("drained in", took)


def test_row_20_jobs_are_cancelled(plant: Plant, clock: Clock) -> None:
    waiting: list[float] = []
    running: list[float] = []
    with plant.quick_worker():
        while clock.go_on():
            behaviour = random.choice(["hang", "until_stopped", "train_slowly:100"])  # noqa: S311
            job_id = plant.tell(behaviour)
            broker.notify_training(plant.broker_url)
            queued = plant.tell("train:3", priority=-1)
            eventually(lambda job_id=job_id: plant.job(job_id).status == JobStatus.running, 30.0)  # type: ignore[misc]
            time.sleep(random.uniform(0, 1.5))  # noqa: S311
            family = [child for pid in trainers(job_id) for child in _family(pid)]
            for one, times in ((queued, waiting), (job_id, running)):
                begun = time.monotonic()
                with plant.database.transaction() as session:
                    lifecycle.cancel(session, Actor(plant.project), one)
                plant.wait_for(one, JobStatus.cancelled)
                times.append(time.monotonic() - begun)
            assert all_end(family, 5.0)
            assert not trainers(job_id)
    assert max(waiting) <= 1
    assert max(running) <= 10
    clock.note(cancelled=len(running), processes_left=0)
    clock.times("queued ended in", waiting)
    clock.times("running ended in", running)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _assert_sound(plant: Plant, job_id: str) -> None:
    with plant.database.transaction() as session:
        found = invariants.breaches(session, plant.store.exists)
    assert [one for one in found if one.subject == job_id] == []
