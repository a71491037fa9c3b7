"""Limits of projects: waiting jobs, running jobs, stored bytes and GPU hours."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.accounts.tables import Project, ProjectUsage
from app.core.db import Database
from app.core.errors import QuotaExceeded
from app.core.jobs import leases, lifecycle, outcomes, quotas
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job, JobAttempt
from app.core.spec.hardware import Hardware
from tests.setup_jobs import make_file, make_job, make_project


def limited(session: Session, name: str, **limits: int) -> str:
    project_id = make_project(session, name)
    for limit, value in limits.items():
        setattr(session.get_one(Project, project_id), limit, value)
    session.flush()
    return project_id


def running(session: Session, project_id: str) -> int:
    mine = select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.status == JobStatus.running)
    return session.scalar(mine) or 0


def test_project_at_limit_is_skipped(database: Database) -> None:
    with database.transaction() as session:
        full, other = limited(session, "full", max_running_jobs=1), make_project(session, "other")
        first = make_job(session, full)
        waiting = make_job(session, full)
        waiting.priority = 9  # the best job of all, and still not eligible
        first.priority = 10
        session.flush()
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        assert claim.job_id == first.id
        lone = make_job(session, other)
        taken = [leases.claim(session, "w", 60) for _ in range(2)]
        assert [one and one.job_id for one in taken] == [lone.id, None]
        outcomes.fail(session, claim, "code", "message")
        last = leases.claim(session, "w", 60)
        assert last is not None
        assert last.job_id == waiting.id


def test_default_limit_applies_without_own(database: Database) -> None:
    with database.transaction() as session:
        free, own = make_project(session, "free"), limited(session, "own", max_running_jobs=3)
        for project in (free, own):
            for _ in range(4):
                make_job(session, project)
    with database.transaction() as session:
        while leases.claim(session, "w", 60, max_running_jobs=2) is not None:
            pass
        assert (running(session, free), running(session, own)) == (2, 3)


def test_concurrent_claims_respect_limit(database: Database) -> None:
    with database.transaction() as session:
        project = limited(session, "full", max_running_jobs=3)
        for _ in range(8):
            make_job(session, project)
    barrier = threading.Barrier(8)

    def claim(number: int) -> bool:
        barrier.wait()
        with database.transaction() as session:
            return leases.claim(session, f"w{number}", 60) is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 3
    with database.transaction() as session:
        assert running(session, project) == 3


def test_queued_jobs_over_limit_rejected(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        jobs = [make_job(session, project) for _ in range(3)]
        lifecycle.pause(session, Actor(project), jobs[0].id)
        assert leases.claim(session, "w", 60) is not None
        assert quotas.usage(session, project) == quotas.QuotaUsage(
            running_jobs=1, queued_jobs=2, stored_bytes=3, gpu_hours=0.0
        )
        quotas.check_queued_jobs(session, project, 3)
        with pytest.raises(QuotaExceeded, match=r"has 2 waiting jobs .* limit is 2 \(queued_jobs\)\. Wait .* cancel"):
            quotas.check_queued_jobs(session, project, 2)
        quotas.check_queued_jobs(session, make_project(session, "other"), 1)


def test_concurrent_creations_respect_limit(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
    barrier = threading.Barrier(6)

    def create(_number: int) -> bool:
        barrier.wait()
        try:
            with database.transaction() as session:
                quotas.check_queued_jobs(session, project, 2)
                make_job(session, project)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(create, range(6))) == 2


def test_stored_bytes_over_limit_rejected(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project)
        file.bytes = 900
        session.flush()
        quotas.check_stored_bytes(session, project, 100, 1000)
        with pytest.raises(
            QuotaExceeded,
            match=r"stores 900 bytes .* may store 1,000 \(stored_bytes\); this file has 101",
        ):
            quotas.check_stored_bytes(session, project, 101, 1000)
        session.delete(file)
        session.flush()
        quotas.check_stored_bytes(session, project, 1000, 1000)


def test_project_without_gpu_hours_waits(database: Database) -> None:
    with database.transaction() as session:
        project, other = limited(session, "spender", max_gpu_hours=4), make_project(session, "other")
        waiting = {make_job(session, project).id for _ in range(2)}
        claim = leases.claim(session, "w", 60, hardware=Hardware(processes=8, memory_bytes=1))
        assert claim is not None
        waiting.remove(claim.job_id)
        session.execute(update(JobAttempt).values(started_at=func.now() - timedelta(minutes=30)))
    with database.transaction() as session:
        outcomes.fail(session, claim, "code", "message")
    with database.transaction() as session:
        assert quotas.usage(session, project).gpu_hours == pytest.approx(4.0, abs=0.01)
        with pytest.raises(QuotaExceeded, match=r"has used 4\.0 GPU hours this month; its limit is 4 \(gpu_hours\)"):
            quotas.check_gpu_hours(session, project, 4)
        assert leases.claim(session, "w", 60) is None
        lone = make_job(session, other)
        assert leases.claim(session, "w", 60, max_gpu_hours=0) is None  # the installation's, for projects without one
        taken = leases.claim(session, "w", 60, max_gpu_hours=1)
        assert taken is not None
        assert taken.job_id == lone.id
        session.execute(update(ProjectUsage).values(month=date(2020, 1, 1)))  # that was in another month
        again = leases.claim(session, "w", 60)
        assert again is not None
        assert {again.job_id} == waiting
