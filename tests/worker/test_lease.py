"""An attempt that loses its lease, or cannot confirm it in time, kills its trainer and writes nothing."""

import threading
import time
from dataclasses import replace

from sqlalchemy import func, update

from app.core.jobs import leases, queries
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from app.core.jobs.tables import Job
from tests.waiting import eventually
from tests.worker.conftest import Bench, Outage
from tests.worker.test_runner import is_alive


def test_heartbeats_keep_the_lease(bench: Bench) -> None:
    thread = bench.start("until_stopped")
    first = bench.job().lease_until
    assert first is not None
    eventually(lambda: (bench.job().lease_until or first) > first)
    with bench.database.transaction() as session:
        assert leases.expire(session) == 0
    bench.drain.begin()
    thread.join(60)


def test_heartbeats_continue_during_a_drain(bench: Bench) -> None:
    thread = bench.start("stops_slowly:2")
    bench.drain.begin()
    first = bench.job().lease_until
    assert first is not None
    eventually(lambda: (bench.job().lease_until or first) > first)
    assert bench.status() is JobStatus.running
    thread.join(60)
    job = bench.job()
    assert (job.status, job.crashes) == (JobStatus.queued, 0)
    with bench.database.transaction() as session:
        assert queries.latest_checkpoints(session, bench.job_id)[0].step == job.step


def test_lost_lease_ends_the_attempt(bench: Bench) -> None:
    thread = bench.start("hang")
    pids = [int(pid) for pid in (bench.run_dir().parent / "pids").read_text().split()]
    with bench.database.transaction() as session:
        session.execute(update(Job).values(lease_until=func.now() - func.make_interval(0, 0, 0, 1)))
        assert leases.expire(session) == 1
        events, _ = queries.list_events(session, bench.job_id, after=None, limit=1)
    thread.join(60)
    assert not thread.is_alive()
    assert not [pid for pid in pids if is_alive(pid)]
    job = bench.job()
    assert (job.status, job.crashes) == (JobStatus.queued, 1)
    with bench.database.transaction() as session:
        newest, _ = queries.list_events(session, bench.job_id, after=None, limit=1)
        assert newest[0].id == events[0].id
        assert [a.outcome for a in queries.list_attempts(session, bench.job_id)] == [AttemptOutcome.lost_lease]
    assert bench.run("train:3").status == JobStatus.succeeded


def test_attempt_without_database_is_fenced(bench: Bench, outage: Outage) -> None:
    # A busy machine may take seconds to see the end of the trainer.
    bench = replace(bench, settings=bench.settings.model_copy(update={"lease_seconds": 12.0, "fence_seconds": 7.0}))
    thread = bench.start("hang")
    pids = [int(pid) for pid in (bench.run_dir().parent / "pids").read_text().split()]
    database_outage = threading.Thread(target=outage, args=(bench.settings.lease_seconds,))
    started = time.monotonic()
    database_outage.start()
    eventually(lambda: not any(is_alive(pid) for pid in pids), bench.settings.lease_seconds)
    assert bench.settings.fence_seconds - 2 < time.monotonic() - started < bench.settings.lease_seconds
    database_outage.join()
    thread.join(60)
    assert not thread.is_alive()
    eventually(lambda: bench.status() is JobStatus.running)
    eventually(lambda: _expired(bench))
    assert bench.job().status == JobStatus.queued


def _expired(bench: Bench) -> bool:
    with bench.database.transaction() as session:
        return leases.expire(session) == 1
