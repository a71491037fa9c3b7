"""The queue of row checks: claims, takeovers and shared results."""

from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, update

from app.core.accounts.audit import Actor
from app.core.chat.row_check import RowCounts
from app.core.db import Database
from app.core.files.tables import FileStatus
from app.core.jobs import deletion, lifecycle, row_checks
from app.core.jobs.row_checks import CheckRequest, CheckResult
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import RowCheck
from app.core.models import registry
from app.core.spec.job import Hyperparameters, ImitationMethod, JobSpec, MethodType
from tests.setup_jobs import make_file, make_project, supervised
from tests.tiny_model import write_tokenizer

RESULT = CheckResult(counts=RowCounts(used=8))


def request(models: Path, spec: JobSpec | None = None) -> CheckRequest:
    """Return the check of a training file on the model `tiny`, which is created if it is missing."""
    directory = models / "tiny"
    if not directory.exists():
        directory.mkdir()
        write_tokenizer(directory)
        (directory / "config.json").write_text("{}")
    model = registry.resolve("tiny", models)
    return row_checks.requests_of(spec or supervised(), model, ["training_file"])["training_file"]


def spec_with(**fields: object) -> JobSpec:
    settings = ImitationMethod(hyperparameters=Hyperparameters.model_validate(fields.pop("hyperparameters", {})))
    spec = JobSpec(model="tiny", method=MethodType.supervised, settings=settings, seed=8)
    return spec.model_copy(update=fields)


def test_key_has_only_what_decides_about_rows(tmp_path: Path) -> None:
    key = request(tmp_path).key
    assert request(tmp_path, spec_with(hyperparameters={"batch_size": 4, "n_epochs": 9})).key == key
    assert request(tmp_path, spec_with(hyperparameters={"max_length": 512})).key != key
    assert request(tmp_path, spec_with(chat_template_kwargs={"enable_thinking": False})).key != key
    (tmp_path / "tiny" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert request(tmp_path).key != key


def test_dead_worker_is_replaced(database: Database, tmp_path: Path) -> None:
    check = request(tmp_path)
    with database.transaction() as session:
        file = make_file(session, make_project(session))
        row_checks.store(session, file.id, check, None)
        row_checks.store(session, file.id, check, None)
        first = row_checks.claim_next(session, 60)
        assert first is not None
        assert row_checks.claim_next(session, 60) is None
        assert not row_checks.any_due(session)
    with database.transaction() as session:
        session.execute(update(RowCheck).values(claimed_until=func.now() - timedelta(seconds=1)))
        assert row_checks.any_due(session)
        second = row_checks.claim_next(session, 60)
        assert second is not None
        assert second.request == check
        assert row_checks.renew(session, first, 60) is None
        assert not row_checks.settle(session, first, RESULT)
        renewed = row_checks.renew(session, second, 90)
        assert renewed is not None
        assert row_checks.settle(session, renewed, RESULT)
        assert row_checks.find(session, file.id, check.key) == RESULT


def test_waiting_file_is_not_claimed(database: Database, tmp_path: Path) -> None:
    with database.transaction() as session:
        file = make_file(session, make_project(session), status=FileStatus.uploaded)
        row_checks.store(session, file.id, request(tmp_path), None)
        assert not row_checks.any_due(session)
        assert row_checks.claim_next(session, 60) is None


def test_known_result_stays_and_goes_with_its_file(database: Database, tmp_path: Path) -> None:
    check = request(tmp_path)
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project)
        row_checks.store(session, file.id, check, RESULT)
        row_checks.store(session, file.id, check, CheckResult(counts=RowCounts(used=1)))
        row_checks.store(session, file.id, check, None)
        assert row_checks.find(session, file.id, check.key) == RESULT
        deletion.delete_file(session, project, file.id)
        assert row_checks.find(session, file.id, check.key) is None


def test_job_waits_for_its_check(database: Database, tmp_path: Path) -> None:
    check = request(tmp_path)
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project)

        def create() -> str:
            job = lifecycle.create(
                session,
                Actor(project),
                spec=supervised(),
                training_file=file.id,
                validation_file=None,
                checks={"training_file": check},
            )
            return job.status

        assert create() == JobStatus.validating_files
        claim = row_checks.claim_next(session, 60)
        assert claim is not None
        assert row_checks.settle(session, claim, RESULT)
        assert lifecycle.admit_validated(session) == 1
        assert create() == JobStatus.queued
