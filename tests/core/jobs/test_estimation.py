"""Estimates learn from finished jobs: a measured job changes the next estimate and the expected end."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.estimates.estimate import Estimate, PlannedJob, estimate
from app.core.jobs import estimation, outcomes, progress
from app.core.jobs import leases as claims
from app.core.jobs.estimation import JobFiles
from app.core.jobs.journal import Journal, JournalEntry
from app.core.jobs.leases import Claim
from app.core.jobs.tables import Job, JobAttempt, Metric
from app.core.spec.hardware import Hardware
from app.core.spec.job import JobSpec
from app.core.spec.reports import Finished, Metrics, Started
from app.core.storage.local import LocalBlobStore
from tests.core.estimates.test_workload import gft
from tests.setup_jobs import make_job, make_project, metrics_csv, stored_file

BOX = Hardware(processor="Box", cores=1, threads=1, memory_bytes=16 * 10**9)
STEP: dict[str, float | None] = {
    "gft/timing/rollout": 6.0,
    "gft/timing/grading": 1.0,
    "gft/timing/update": 3.0,
    "step_time": 10.0,
    "gft/peak_memory_bytes": 7e8,
    "gft/prompt_length": 30.0,
    "gft/expert/length": 3.0,
    "gft/teacher/length": 3.0,
    "gft/self/length": 8.0,
}


class Lab:
    """One project, one file, and jobs that take what a test says."""

    def __init__(self, database: Database, models_dir: Path, directory: Path) -> None:
        self.database = database
        self.models_dir = models_dir
        self.store = LocalBlobStore(directory / "store")
        self.spec: JobSpec = gft(sampling={"max_tokens": 16}, hyperparameters={"batch_size": 4, "n_epochs": 2})
        with database.transaction() as session:
            self.project = make_project(session)
            self.file = stored_file(session, self.store, self.project, directory)

    def planned(self) -> PlannedJob:
        return estimation.plan_job(self.store, self.spec, "tiny", JobFiles(self.file, None), self.models_dir)

    def claim(self) -> Claim:
        with self.database.transaction() as session:
            make_job(session, self.project, self.spec, self.file)
            claim = claims.claim(session, "w", 60, hardware=BOX)
            assert claim is not None
            estimation.store_for_worker(session, claim, self.planned(), BOX)
            return claim

    def train(self, claim: Claim, steps: int) -> None:
        """The first step begins 20 s after the claim; each takes 10 s, the last one was now."""
        plan = self.planned().plan
        started = Started(
            total_steps=plan.total_steps,
            resumed_from_step=0,
            batch_size=plan.batch_size,
            n_epochs=plan.n_epochs,
            learning_rate=1.0,
            learning_rate_multiplier=1.0,
        )
        journal = Journal(self.database, claim)
        journal.record([JournalEntry(started)])
        for step in range(1, steps + 1):
            journal.metrics([Metrics(step=step, values=STEP | {"num_tokens": 100.0 * step}, trained_tokens=100 * step)])
        with self.database.transaction() as session:
            ago = _ago(20 + 10 * steps)
            session.execute(update(JobAttempt).values(started_at=ago, training_at=_ago(10 * steps)))
            for step in range(1, steps + 1):
                session.execute(update(Metric).where(Metric.step == step).values(created_at=_ago(10 * (steps - step))))

    def job(self, session: Session, claim: Claim) -> Job:
        return session.get_one(Job, claim.job_id, populate_existing=True)


def _ago(seconds: float) -> Any:
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)


@pytest.fixture
def lab(database: Database, tiny_models: Path, tmp_path: Path) -> Lab:
    return Lab(database, tiny_models, tmp_path)


@pytest.mark.slow
def test_estimate_learns_from_last_job(lab: Lab) -> None:
    claim = lab.claim()
    lab.train(claim, 4)
    with lab.database.transaction() as session:
        before = lab.job(session, claim).estimate
        estimation.store_measured(session, claim, lab.planned(), BOX)
        assert estimation.observations(session) == []  # not finished yet
        finished = Finished(step=4, path="/x", trained_tokens=400, published_step=4, reason="the last step")
        outcomes.succeed(session, claim, finished, "jobs/x/a1/adapter", "tiny", metrics_csv())
    with lab.database.transaction() as session:
        took = lab.job(session, claim).measured
        after = estimate(lab.planned(), BOX, estimation.observations(session))
    assert took is not None
    assert took["seconds"] == pytest.approx(60, abs=1)
    parts = {"setup": 20, "rollout": 24, "grading": 4, "update": 12, "rest": 0}
    assert took["parts"] == pytest.approx(parts, abs=1)
    assert (took["steps"], took["attempts"], took["trained_tokens"]) == (4, 1, 400)
    assert took["mean_tokens"] == {"prompt": 30, "expert": 3, "teacher": 3, "own": 8}
    assert before is not None
    assert (before["based_on"]["same_jobs"], after.based_on.same_jobs) == (0, 1)
    assert after.seconds is not None
    assert abs(after.seconds.expected - 60) < abs(before["seconds"]["expected"] - 60) / 2
    assert after.seconds.low < 60 < after.seconds.high
    # `<|im_start|>user`, a line's end, four characters, `<|im_end|>`, ... : the model's own tokenizer counts 23.
    assert (after.tokens.prompt.low, after.tokens.prompt.high, after.based_on.tokens) == (16 * 23, 16 * 23, "tokenizer")
    assert after.peak_memory_bytes is not None
    assert after.peak_memory_bytes.expected == pytest.approx(7e8, rel=0.15)


def test_interrupted_job_has_no_parts(lab: Lab) -> None:
    claim = lab.claim()
    with lab.database.transaction() as session:
        outcomes.drain(session, claim)
        again = claims.claim(session, "w", 60, hardware=BOX)
        assert again is not None
    lab.train(again, 4)
    with lab.database.transaction() as session:
        took = estimation.measure(session, again.job_id, lab.planned(), BOX)
    assert took is not None
    assert (took.attempts, took.parts) == (2, None)
    assert set(took.ratios) == {"memory", "own_tokens"}


def eta(session: Session, job: Job) -> float | None:
    running = progress.run_progress(session, [job]).get(job.id)
    return None if running is None else running.eta_seconds


def test_eta_from_estimate_then_pace(lab: Lab) -> None:
    claim = lab.claim()
    with lab.database.transaction() as session:
        made = Estimate.model_validate(lab.job(session, claim).estimate)
        assert made.seconds is not None
        assert made.parts is not None
        first = eta(session, lab.job(session, claim))
        assert first == pytest.approx(made.seconds.expected, abs=2)
        session.execute(update(JobAttempt).values(started_at=_ago(made.parts["setup"] + 3600)))
        late = eta(session, lab.job(session, claim))
        a_step = (made.seconds.expected - made.parts["setup"]) / made.steps
        assert late == pytest.approx(4 * a_step)
    lab.train(claim, 3)
    with lab.database.transaction() as session:
        # Two steps of pace: a tenth of the trust.
        blended = 0.1 * 10 + 0.9 * a_step
        assert eta(session, lab.job(session, claim)) == pytest.approx(blended, rel=0.01)
        session.execute(update(Job).values(estimate=None))
        assert eta(session, lab.job(session, claim)) == pytest.approx(10, rel=0.01)
        outcomes.drain(session, claim)
        assert eta(session, lab.job(session, claim)) is None


def test_eta_falls_during_the_first_evaluation(lab: Lab) -> None:
    claim = lab.claim()
    with lab.database.transaction() as session:
        session.execute(update(Job).values(validation_file=lab.file.id))
        job = lab.job(session, claim)
        made = Estimate.model_validate(job.estimate)
        assert made.seconds is not None
        assert made.parts is not None
        rest = 130.0  # ten evaluations during training, two before and one after: ten seconds each
        parts = made.parts | {"rest": rest}
        total = sum(parts.values())
        seconds = made.seconds.model_copy(update={"expected": total})
        changed = made.model_copy(update={"parts": parts, "seconds": seconds})
        session.execute(update(Job).values(estimate=changed.model_dump(mode="json")))
        assert eta(session, lab.job(session, claim)) == pytest.approx(total, abs=2)
    lab.train(claim, 0)
    with lab.database.transaction() as session:
        ready = total - parts["setup"]
        for elapsed, left in ((0, ready), (15, ready - 15), (60, ready - 20)):
            session.execute(update(JobAttempt).values(training_at=_ago(elapsed)))
            assert eta(session, lab.job(session, claim)) == pytest.approx(left, abs=0.1)
    lab.train(claim, 1)
    with lab.database.transaction() as session:
        assert eta(session, lab.job(session, claim)) == pytest.approx((ready - 20) * 3 / 4, abs=0.1)


@pytest.mark.parametrize("batches", [(25, 25, 25, 10), (100, 3), (15, 15), (1,) * 60, (400, 1, 1), (7, 1)])
def test_eta_of_a_fast_job(lab: Lab, batches: Sequence[int]) -> None:
    """50 steps a second: the steps of a stored batch share one timestamp."""
    claim = lab.claim()
    lab.train(claim, 0)
    ends = list(itertools.accumulate(batches))
    for size, end in zip(batches, ends, strict=True):
        steps = range(end - size + 1, end + 1)
        Journal(lab.database, claim).metrics([Metrics(step=n, values=STEP, trained_tokens=n) for n in steps])
    with lab.database.transaction() as session:
        session.execute(update(JobAttempt).values(started_at=_ago(60)))
        session.execute(update(Job).values(estimate=None, total_steps=2000))
        for size, end in zip(batches, ends, strict=True):
            is_stored = Metric.step.between(end - size + 1, end)
            session.execute(update(Metric).where(is_stored).values(created_at=_ago((ends[-1] - end) / 50)))
        left = (2000 - ends[-1]) / 50
        assert eta(session, lab.job(session, claim)) == pytest.approx(left, rel=0.01)


def test_one_batch_has_no_pace(lab: Lab) -> None:
    claim = lab.claim()
    lab.train(claim, 0)
    with lab.database.transaction() as session:
        session.execute(update(JobAttempt).values(started_at=_ago(60)))
        session.execute(update(Job).values(estimate=None, total_steps=2000))
    Journal(lab.database, claim).metrics([Metrics(step=n, values=STEP, trained_tokens=n) for n in range(1, 40)])
    with lab.database.transaction() as session:
        assert eta(session, lab.job(session, claim)) is None


def test_claim_replaces_estimate_of_other_device(lab: Lab) -> None:
    claim = lab.claim()
    with lab.database.transaction() as session:
        other = BOX.model_copy(update={"threads": 8})
        estimation.store_for_worker(session, claim, lab.planned(), other)
        kept = lab.job(session, claim).estimate
        assert kept is not None
        assert kept["device"] == "Box, 8 threads"
