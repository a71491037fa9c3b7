"""A job whose runner dies just before or after any of its commits is finished by another attempt."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, update
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.jobs import invariants, leases, queries
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job
from app.core.settings import Settings
from app.core.storage.local import LocalBlobStore
from tests import forked
from tests.setup_jobs import make_job, stored_file
from tests.worker.conftest import TRAINER, Bench
from worker.process_control import Drain
from worker.runner import Runner

STEPS = 5
ALL_WELL = 100
"""An exit code from this value on is this value plus the number of commits."""


def attempt(url: str, settings: dict[str, Any], python: str, moment: str, fatal: int) -> None:
    """Claim and run the job. Die at commit number `fatal`, or exit with `ALL_WELL` plus the number of commits."""
    seen = 0

    def count(_session: Session) -> None:
        nonlocal seen
        if threading.current_thread() is threading.main_thread():
            seen += 1
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    configuration = Settings.model_validate(settings)
    database = Database(url)
    event.listen(Session, moment, count)
    claimed_at = time.monotonic()
    with database.transaction() as session:
        claim = leases.claim(session, "doomed", 60)
    assert claim is not None
    Runner(
        database,
        LocalBlobStore(configuration.storage_dir),
        configuration,
        claim,
        claimed_at=claimed_at,
        drain=Drain(),
        trainer_command=(python, "-S", str(TRAINER), f"train:{STEPS}"),
    ).run()
    os._exit(ALL_WELL + seen)


@pytest.fixture
def run_attempt(bench: Bench) -> Callable[[str, int], int]:
    def run(moment: str, fatal: int) -> int:
        url = bench.database.engine.url.render_as_string(hide_password=False)
        settings = bench.settings.model_dump(mode="json", exclude_none=True)
        process = forked.start(attempt, url, settings, sys.executable, moment, fatal)
        process.join(60)
        assert process.exitcode is not None
        return process.exitcode

    return run


def test_crash_around_any_commit_is_recovered(
    bench: Bench, run_attempt: Callable[[str, int], int], tmp_path: Path
) -> None:
    commits = run_attempt("after_commit", 0) - ALL_WELL
    assert commits > 5
    assert bench.status() is JobStatus.succeeded
    for moment in ("before_commit", "after_commit"):
        for fatal in range(1, commits + 1):
            with bench.database.transaction() as session:
                file = stored_file(session, bench.store, bench.project, tmp_path)
                bench.job_id = make_job(session, bench.project, file=file).id
            code = run_attempt(moment, fatal)
            assert code in (-signal.SIGKILL, *range(ALL_WELL, ALL_WELL + fatal)), (moment, fatal)
            with bench.database.transaction() as session:
                session.execute(
                    update(Job)
                    .where(Job.status == "running")
                    .values(lease_until=func.now() - func.make_interval(0, 0, 0, 1))
                )
                leases.expire(session)
            if bench.status() is not JobStatus.succeeded:
                bench.run(f"train:{STEPS}")
            assert bench.status() is JobStatus.succeeded, (moment, fatal, bench.job().error)
            with bench.database.transaction() as session:
                assert invariants.breaches(session, bench.store.exists) == [], (moment, fatal)
                steps = [metric.step for metric in queries.list_metrics(session, bench.job_id)]
            assert steps == list(range(1, STEPS + 1)), (moment, fatal)
