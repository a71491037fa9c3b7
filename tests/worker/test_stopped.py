"""A worker that was suspended for longer than its lease has lost the job: it writes nothing when it continues."""

import os
import signal

from sqlalchemy import text

from app.core.jobs import invariants, queries
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from tests.waiting import eventually
from tests.worker.conftest import Plant
from tests.worker.test_tasks import trainers

STEPS = 40
HELD_AT = 5
ROWS = ("job_events", "metrics", "groups", "checkpoints", "job_attempts", "models", "webhook_deliveries")


def written(plant: Plant) -> dict[str, list[str]]:
    """Return all rows that attempts write, each with the transaction that wrote it."""
    with plant.database.transaction() as session:
        return {
            table: sorted(map(str, session.execute(text(f"SELECT xmin, t.* FROM {table} AS t"))))  # noqa: S608 - ours
            for table in ROWS
        }


def test_suspended_attempt_writes_no_row(plant: Plant) -> None:
    job_id = plant.tell(f"train_held:{STEPS}:{HELD_AT}")
    with plant.default_worker(), plant.quick_worker("one") as worker_1, plant.quick_worker("two") as worker_2:
        plant.wait_for_step(job_id, HELD_AT)
        owner = str(plant.job(job_id).lease_owner)
        stopped, name = (worker_1, "one") if owner.endswith(f":{worker_1.pid}") else (worker_2, "two")
        [trainer] = trainers(job_id)
        for pid in (stopped.pid, trainer):
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: plant.attempts(job_id)[0].outcome is not None)  # the lease has run out
        plant.release(job_id)
        plant.end_back_off(job_id)
        plant.wait_for(job_id, JobStatus.succeeded)
        before = written(plant)
        for pid in (trainer, stopped.pid):
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: b"attempt.lost" in (plant.directory / f"{name}.log").read_bytes())
        eventually(lambda: not trainers(job_id))
        next_job = plant.tell("train:2")
        plant.wait_for(next_job, JobStatus.succeeded)
        assert {table: rows for table, rows in before.items() if set(rows) - set(written(plant)[table])} == {}
    first, second = plant.attempts(job_id)
    assert (first.outcome, second.outcome) == (AttemptOutcome.lost_lease, AttemptOutcome.succeeded)
    assert first.worker != second.worker
    with plant.database.transaction() as session:
        assert [metric.step for metric in queries.list_metrics(session, job_id)] == list(range(1, STEPS + 1))
        assert (
            len([e for e in queries.list_events(session, job_id, after=None, limit=9999)[0] if e.type == "metrics"])
            >= STEPS
        )
        assert invariants.breaches(session, plant.store.exists) == []
