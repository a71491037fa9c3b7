"""Scheduling through real Celery workers: preemption, poison jobs and broken GPUs."""

import psutil

from app.core import broker
from app.core.accounts.audit import Actor
from app.core.jobs import lifecycle
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from tests.waiting import eventually
from tests.worker.conftest import Plant


def test_preemption_and_poison_job(plant: Plant) -> None:
    low = plant.tell("until_stopped")
    with plant.default_worker(), plant.quick_worker() as worker:
        plant.wait_for_step(low, 3)
        urgent = plant.tell("train:2", priority=5)
        plant.wait_for(urgent, JobStatus.succeeded)
        eventually(lambda: len(plant.attempts(low)) == 2 and plant.attempts(low)[1].resumed_from_step >= 3)
        assert [attempt.outcome for attempt in plant.attempts(low)] == [AttemptOutcome.preempted, None]
        assert plant.job(low).crashes == 0

        poison, next_job = plant.tell("crash:3", priority=9), plant.tell("train:2", priority=8)
        for crash in (1, 2):
            eventually(lambda crash=crash: plant.job(poison).crashes == crash)  # type: ignore[misc]
            plant.end_back_off(poison)
        failed = plant.wait_for(poison, JobStatus.failed)
        assert failed.error is not None
        assert failed.error["code"] == "crashed_repeatedly"
        assert [attempt.outcome for attempt in plant.attempts(poison)] == [AttemptOutcome.crashed] * 3
        plant.wait_for(next_job, JobStatus.succeeded)
        assert psutil.pid_exists(worker.pid)


def test_gpu_fault_quarantines_the_worker(plant: Plant) -> None:
    victim, other = plant.tell("fail:79", priority=1), plant.tell("train:2")
    with plant.default_worker(), plant.quick_worker("broken") as broken:
        eventually(lambda: b"gpu.quarantined" in (plant.directory / "broken.log").read_bytes())
        with plant.database.transaction() as session:
            lifecycle.cancel(
                session, Actor(plant.project), victim
            )  # after its backoff it would break the second worker too
        broker.notify_training(plant.broker_url)
        with plant.quick_worker("healthy") as healthy:
            plant.wait_for(other, JobStatus.succeeded)
            [attempt] = plant.attempts(other)
            assert attempt.worker.endswith(f":{healthy.pid}")
        [attempt] = plant.attempts(victim)[:1]
        assert attempt.worker.endswith(f":{broken.pid}")
        assert (attempt.outcome, attempt.reason) == (AttemptOutcome.gpu_fault, "Use a smaller batch_size.")
        assert psutil.pid_exists(broken.pid)
        assert broken.drain() == 0
