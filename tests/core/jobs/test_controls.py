"""A job waits for its control and ends with the comparison."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest, LostLease
from app.core.files.tables import FileStatus
from app.core.files.validation import validate_file
from app.core.jobs import controls, deletion, evaluations, leases, lifecycle, outcomes, queries
from app.core.jobs.control_comparisons import sentence
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import JobStatus, StopRequest
from app.core.jobs.tables import Job, JobEvent
from app.core.spec.intervals import Difference
from app.core.spec.job import JobSpec, MethodType
from app.core.spec.reports import Evaluated
from app.core.spec.resources import Resources
from app.core.spec.row_results import RowResults, RowScores
from tests.core.jobs.test_gates import GRADER, finish, gated
from tests.setup_jobs import make_file, make_project
from tests.tiny_model import write_rows

LOW = [0.0] * 20
HIGH = [1.0] * 12 + [0.0] * 8


def compared(*gates: str, **settings: Any) -> JobSpec:
    return gated(*gates, **settings).model_copy(update={"control": MethodType.dft})


def make(session: Session, project: str, spec: JobSpec) -> tuple[Job, Job]:
    """Create a job with a control; return both."""
    training, validation = make_file(session, project), make_file(session, project)
    job = lifecycle.create(session, Actor(project), spec=spec, training_file=training.id, validation_file=validation.id)
    control = controls.control_of(session, job.id)
    assert control is not None
    return job, control


def claimed(session: Session, job: Job) -> Claim:
    claim = leases.claim(session, "w", 60)
    assert claim is not None
    assert claim.job_id == job.id
    return claim


def evaluate(session: Session, claim: Claim, scores: list[float]) -> None:
    by_row = {"eval/reward": RowScores(values=tuple(scores))}
    rows = RowResults(lines=tuple(range(1, len(scores) + 1)), metrics=by_row)
    for step in (0, 4):
        values: dict[str, float | None] = {"eval/reward": sum(scores) / len(scores)}
        evaluations.store(session, claim, Evaluated(step=step, values=values, is_result=True, rows=rows))
    session.expire_all()


def run(session: Session, job: Job, scores: list[float]) -> Job:
    claim = claimed(session, job)
    evaluate(session, claim, scores)
    return finish(session, claim)


def messages(session: Session, job: Job) -> list[str]:
    rows = session.query(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.seq)
    return [row.message for row in rows]


def test_job_starts_after_its_control(database: Database) -> None:
    with database.transaction() as session:
        job, control = make(session, make_project(session), compared())
        assert (job.status, control.status) == (JobStatus.queued, JobStatus.queued)
        assert control.control_of == job.id
        waits = f"The control {control.id} (dft) trains first. This job starts when it has ended."
        assert waits in messages(session, job)
        claim = claimed(session, control)
        assert leases.claim(session, "w2", 60) is None
        assert not queries.any_queued(session)
        assert queries.backlog(session).oldest_queued_seconds == 0
        assert queries.job_details(session, job).queue_position is None
        evaluate(session, claim, LOW)
        finish(session, claim)
        assert queries.job_details(session, job).queue_position == 1
        claimed(session, job)


def test_waiting_job_has_no_place_in_the_queue(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        _, first = make(session, project, compared())
    with database.transaction() as session:
        _, second = make(session, project, compared())
        assert [queries.job_details(session, one).queue_position for one in (first, second)] == [1, 2]


def test_job_ends_with_the_comparison(database: Database) -> None:
    with database.transaction() as session:
        job, control = make(session, make_project(session), compared())
        run(session, control, LOW)
        ended = run(session, job, HIGH)
        found = ended.control_comparison
        assert ended.status == JobStatus.succeeded
        assert found is not None
        assert (found["verdict"], found["control"], found["job"], found["rows"]) == ("improved", 0.0, 0.6, 20)
        assert found["low"] < found["difference"] < found["high"]
        assert found["reason"].startswith("SFT +60.0 points over DFT (95 % ")
        assert found["reason"].endswith(") on 20 held-out rows")
        assert messages(session, job).count(found["reason"]) == 1


@pytest.mark.parametrize(
    ("found", "points", "expected"),
    [
        (Difference(0.07, 0.012, 0.128, 300), True, "GFT +7.0 points over SFT (95 % 1.2 to 12.8) on 300 held-out rows"),
        (
            Difference(-0.03, -0.08, 0.02, 40),
            True,
            "GFT -3.0 points against SFT (95 % -8.0 to 2.0) on 40 held-out rows, which cannot tell the two apart",
        ),
        (Difference(2.5, 1.25, 3.75, 40), False, "GFT +2.5 reward over SFT (95 % 1.25 to 3.75) on 40 held-out rows"),
    ],
)
def test_sentence_of_a_comparison(found: Difference, points: bool, expected: str) -> None:
    assert sentence(MethodType.gft, MethodType.supervised, found, are_points=points) == expected


@pytest.mark.parametrize(
    ("gate", "scores", "passes"),
    [
        ("vs control >= 0", HIGH, True),
        ("eval/reward vs control > 0.7", HIGH, False),
        ("vs control >= 0", [1.0] * 6, False),
    ],
)
def test_gate_on_the_control(database: Database, gate: str, scores: list[float], passes: bool) -> None:
    with database.transaction() as session:
        job, control = make(session, make_project(session), compared(gate))
        run(session, control, LOW)
        ended = run(session, job, scores)
        assert ended.status == (JobStatus.succeeded if passes else JobStatus.failed)
        assert ended.control_comparison is not None
        assert ended.gates is not None
        assert ended.gates[0]["passed"] is passes
        expected = "differs by +0.6 from the control's" if scores is HIGH else "only 6 rows have a value in both jobs"
        assert expected in ended.gates[0]["reason"]


def test_failed_control_is_said_in_words(database: Database) -> None:
    with database.transaction() as session:
        job, control = make(session, make_project(session), compared("vs control >= 0"))
        outcomes.fail(session, claimed(session, control), "diverged", "The loss is not finite.")
        ended = run(session, job, HIGH)
        why = f"{control.id} failed. The loss is not finite"
        assert ended.control_comparison is not None
        assert ended.control_comparison["reason"] == f"No comparison with the control (DFT): {why}."
        assert ended.gates is not None
        assert ended.gates[0]["reason"] == f"there is no result of the control: {why}"
        assert ended.error is not None
        assert ended.error["code"] == "gate_failed"


def test_job_starts_when_control_is_cancelled(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job, control = make(session, project, compared())
        lifecycle.cancel(session, Actor(project), control.id)
        ended = run(session, job, HIGH)
        assert ended.status == JobStatus.succeeded
        assert ended.control_comparison is not None
        assert ended.control_comparison["reason"].endswith(f"{control.id} was cancelled.")


def test_cancel_ends_the_control_too(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job, control = make(session, project, compared())
        claim = claimed(session, control)
        lifecycle.cancel(session, Actor(project), job.id)
        session.expire_all()
        assert (job.status, control.stop_request) == (JobStatus.cancelled, StopRequest.cancel)
        outcomes.stop(session, claim, StopRequest.cancel)
        session.expire_all()
        assert control.status == JobStatus.cancelled


def test_pause_and_resume_include_the_control(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job, control = make(session, project, compared())
        claim = claimed(session, control)
        lifecycle.pause(session, Actor(project), job.id)
        with pytest.raises(InvalidRequest, match="is still pausing"):
            lifecycle.resume(session, Actor(project), job.id)
        outcomes.stop(session, claim, StopRequest.pause)
        session.expire_all()
        assert (job.status, control.status) == (JobStatus.paused, JobStatus.paused)
        lifecycle.resume(session, Actor(project), job.id)
        lifecycle.prioritise(session, Actor(project), job.id, -3)
        session.expire_all()
        assert (job.priority, control.priority) == (-3, -3)
        claimed(session, control)


def test_job_resumes_a_control_that_is_paused_alone(database: Database) -> None:
    """The job waits for it, so resuming the job means resuming the control."""
    with database.transaction() as session:
        project = make_project(session)
        job, control = make(session, project, compared())
        lifecycle.pause(session, Actor(project), control.id)
        lifecycle.resume(session, Actor(project), job.id)
        session.expire_all()
        assert (job.status, control.status) == (JobStatus.queued, JobStatus.queued)
        with pytest.raises(InvalidRequest, match="is queued, not paused"):
            lifecycle.resume(session, Actor(project), job.id)


def test_resources_change_for_the_control_too(database: Database) -> None:
    """A control that waits for a lost worker would keep its job waiting, whatever the job requests."""
    with database.transaction() as session:
        project = make_project(session)
        job, control = make(session, project, compared().model_copy(update={"resources": Resources(nodes=2)}))
        assert queries.job_details(session, control).waiting_for is not None
        assert queries.job_details(session, job).waiting_for is None
        assert queries.backlog(session).wanted_workers == 2  # not 4: they do not run at the same time
        lifecycle.resize(session, Actor(project), job.id, Resources())
        session.expire_all()
        assert (job.nodes, control.nodes) == (1, 1)
        assert "The job now requests 1 worker" in messages(session, control)
        claimed(session, control)
        lifecycle.resize(session, Actor(project), job.id, Resources(gpus=4))
        session.expire_all()
        assert (job.gpus, control.gpus) == (4, 1)


def test_control_is_kept_until_it_is_compared(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job, control = make(session, project, compared())
        outcomes.fail(session, claimed(session, control), "diverged", "The loss is not finite.")
        with pytest.raises(InvalidRequest, match="will be compared with it") as caught:
            deletion.delete_job(session, Actor(project), control.id)
        assert caught.value.code == "job_in_use"
        outcomes.fail(session, claimed(session, job), "x", "y")
        deletion.delete_job(session, Actor(project), job.id)
        session.refresh(control)
        assert control.control_of is None


def test_repeated_end_changes_nothing(database: Database) -> None:
    """A runner that lost the reply to its commit writes the end again."""
    with database.transaction() as session:
        job, control = make(session, make_project(session), compared())
        run(session, control, LOW)
        claim = claimed(session, job)
        evaluate(session, claim, HIGH)
        ended = finish(session, claim)
        with pytest.raises(LostLease):
            finish(session, claim)
        assert ended.control_comparison is not None
        assert messages(session, job).count(ended.control_comparison["reason"]) == 1


@pytest.mark.parametrize(
    ("method", "control", "ends"),
    [("supervised", "dpo", ("queued", "failed")), ("dpo", "supervised", ("failed", "cancelled"))],
)
def test_file_that_fits_one_method_only(
    database: Database, tmp_path: Path, method: str, control: str, ends: tuple[str, str]
) -> None:
    """The files are validated after the jobs are created. They have demonstrations and no pairs."""
    report = validate_file(write_rows(tmp_path / "rows.jsonl", 4)).model_dump(mode="json")
    with database.transaction() as session:
        project = make_project(session)
        files = [make_file(session, project, status=FileStatus.uploaded) for _ in range(2)]
        fields = {"model": "tiny", "seed": 1, "method": method, "control": control, "settings": {"grader": GRADER}}
        job = lifecycle.create(
            session,
            Actor(project),
            spec=JobSpec.model_validate(fields),
            training_file=files[0].id,
            validation_file=files[1].id,
        )
        for file in files:
            file.status, file.report = FileStatus.processed, report
        session.flush()
        lifecycle.admit_validated(session)
        session.expire_all()
        other = controls.control_of(session, job.id)
        assert other is not None
        assert (job.status, other.status) == ends
