"""Jobs that train only the demonstrations that pass the grader: requests, lint, estimate and the job's field."""

from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from app.core.jobs import leases, queries
from app.core.jobs.journal import Journal, JournalEntry
from app.core.jobs.progress import Phase
from app.core.spec.demonstrations import GradedDemonstrations
from app.core.spec.reports import DemonstrationsGraded
from tests.api.jobs import GRADER, create, gft, refused
from tests.api.routes.test_estimate import MODEL
from tests.api.routes.test_lint import lint_of, row, upload
from tests.api.server import Server
from tests.waiting import eventually


def graded(**settings: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"grader": GRADER, "demonstrations": "graded"} | settings}


@pytest.fixture
def mixed_file(server: Server, client: OpenAI, tmp_path: Path) -> str:
    """Upload and validate 40 rows; a quarter of the demonstrations is wrong."""
    file_id = upload(client, tmp_path / "mixed.jsonl", *[row("3" if line % 4 == 0 else "2") for line in range(40)])
    server.validate_files()
    return file_id


def test_requests_that_cannot_grade_are_refused(server: Server, client: OpenAI, tmp_path: Path) -> None:
    wrong = upload(client, tmp_path / "wrong.jsonl", row("3"), row("4"))
    prompts = upload(client, tmp_path / "prompts.jsonl", {"prompt": "1+1=", "reference_answer": "2"})
    bare = upload(client, tmp_path / "bare.jsonl", {"prompt": "1+1=", "completion": "2"})
    server.validate_files()
    cases: list[tuple[str, Any, str, str, str]] = [
        (wrong, graded(grader=None), "invalid_request", "method.supervised.demonstrations", "needs a `grader`"),
        (wrong, graded(demonstrations="good"), "invalid_request", "method.supervised.demonstrations", "'graded'"),
        (
            *(wrong, gft(demonstrations="graded", group={"expert": 0, "teacher": 0, "self": 4}), "invalid_request"),
            *("method.gft.demonstrations", "no effect with group.expert 0"),
        ),
        (wrong, graded(), "no_demonstration_passes", "method.supervised.demonstrations", "2 of 2 demonstrations fail"),
        (wrong, gft(demonstrations="graded"), "no_demonstration_passes", "method.gft.demonstrations", "2 of 2"),
        (prompts, gft(demonstrations="graded"), "no_demonstrations", "method.gft.demonstrations", "no demonstration"),
        (bare, graded(), "missing_item_field", "method.supervised.grader.reference", "item.reference_answer"),
    ]
    for file_id, method, code, param, message in cases:
        error = refused(client, file_id, method)
        assert (error.code, error.param) == (code, param)
        assert message in error.message
        body = {"model": "tiny", "training_file": file_id, "method": method}
        found: Any = client.post("/fine_tuning/jobs/validate", body=body, cast_to=object)
        assert [(one["code"], one["param"]) for one in found["errors"]] == [(code, param)]


def test_lint_offers_to_leave_failing_ones_out(server: Server, client: OpenAI, mixed_file: str) -> None:
    lint: Any = client.post(f"/files/{mixed_file}/lint", body={"grader": GRADER}, cast_to=object)
    offer = "10 of 40 demonstrations do not pass the grader. Train without them: `demonstrations: graded`"
    assert lint["offer"] == offer
    without, given = create(client, mixed_file, graded()), create(client, mixed_file, gft())
    server.lint_jobs()
    plain, offered = lint_of(client, without.id), lint_of(client, given.id)
    assert plain["offer"] is None
    assert plain["summary"] == "10 of 40 demonstrations fail their own grader. Graded: all 40 rows"
    assert offered["offer"] == offer
    events = [event.message for event in client.fine_tuning.jobs.list_events(given.id)]
    assert any(message.endswith(offer) for message in events)


def test_estimate_and_plan_know_the_share(client: OpenAI, mixed_file: str) -> None:
    def estimate(method: Any) -> Any:
        body = {"model": MODEL, "training_file": mixed_file, "method": method}
        return client.post("/fine_tuning/estimate", body=body, cast_to=object)

    every, some = estimate(graded(demonstrations="all")), estimate(graded())
    assert (every["based_on"]["passing_share"], some["based_on"]["passing_share"]) == (None, 0.75)
    assert (every["groups"], some["groups"]) == (3 * 40, 3 * 30)
    assert some["grader_calls"] == 40

    def validation(model: str) -> Any:
        body = {"model": model, "training_file": mixed_file, "method": graded()}
        return client.post("/fine_tuning/jobs/validate", body=body, cast_to=object)

    assert (validation(MODEL)["rows"], validation(MODEL)["plan"]["rows"]) == (None, 30)
    assert validation("tiny")["rows"] == {"used": 30, "dropped": {"demonstration_rejected": 10}}


def test_new_job_keeps_the_share(client: OpenAI, mixed_file: str) -> None:
    job_id = create(client, mixed_file, graded(), model=MODEL).id
    eventually(lambda: client.fine_tuning.jobs.retrieve(job_id).to_dict()["estimate"])
    estimate: Any = client.fine_tuning.jobs.retrieve(job_id).to_dict()["estimate"]
    assert (estimate["groups"], estimate["based_on"]["passing_share"]) == (3 * 30, 0.75)


def test_job_shows_the_grades(server: Server, client: OpenAI, mixed_file: str) -> None:
    job_id = create(client, mixed_file, graded()).id
    with server.database.transaction() as session:
        claim = leases.claim(session, "worker-1", lease_seconds=60)
    assert claim is not None
    assert claim.job_id == job_id
    journal = Journal(server.database, claim)

    def record(report: DemonstrationsGraded) -> tuple[Any, list[int] | None]:
        journal.record([JournalEntry(report)])
        with server.database.transaction() as session:
            lines = queries.get_job(session, claim.project_id, job_id).rejected_lines
        return client.fine_tuning.jobs.retrieve(job_id).to_dict(), lines

    counts = GradedDemonstrations(total=3)
    job, lines = record(DemonstrationsGraded(counts=counts))
    assert (job["progress"]["phase"], lines) == (Phase.grading_demonstrations, [])
    counts = counts.model_copy(update={"passed": 1, "failed": 1})
    _, lines = record(DemonstrationsGraded(counts=counts, rejected=(4,)))
    assert lines == [4]
    counts = counts.model_copy(update={"errors": 1})
    job, lines = record(DemonstrationsGraded(counts=counts, rejected=(9,)))
    assert (job["progress"]["phase"], lines) == (Phase.loading_model, [4, 9])
    assert job["demonstrations"] == {"total": 3, "passed": 1, "failed": 1, "errors": 1}
