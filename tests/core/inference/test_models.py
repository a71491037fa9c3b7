"""The model that a name stands for, and the errors of names that stand for none."""

from datetime import UTC

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.audit import Action, Actor, record
from app.core.db import Database
from app.core.errors import GrouptuneError, NotFound
from app.core.inference.models import resolve
from app.core.jobs import deletion, leases, lifecycle
from app.core.jobs.journal import Journal, JournalEntry
from app.core.jobs.tables import JobAttempt, Metric
from app.core.models import aliases, permissions
from app.core.models.tables import TrainedModel
from app.core.settings import Settings
from app.core.spec.reports import Metrics
from tests.core.jobs.test_progress import STARTED
from tests.setup_jobs import make_job, make_project, supervised
from tests.tiny_model import write_tokenizer


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    models = tmp_path_factory.mktemp("models")
    (models / "tiny").mkdir()
    (models / "tiny" / "config.json").write_text("{}")
    write_tokenizer(models / "tiny")
    named = {"gpt-4o-mini": "tiny", "broken": "nothing"}
    return Settings.model_validate({"models_dir": models, "model_aliases": named})


def publish(session: Session, project_id: str, *, step: int | None = None, has_adapter: bool = True) -> TrainedModel:
    """Insert the model of a cancelled job."""
    job = make_job(session, project_id)
    lifecycle.cancel(session, Actor(project_id), job.id)
    job.step = 9
    name = ids.fine_tuned_model("tiny", "default", None, job.id)
    model = TrainedModel(
        id=name if step is None else ids.checkpoint_model(name, step),
        project_id=project_id,
        job_id=job.id,
        step=step,
        base_model="tiny",
        blob=f"jobs/{job.id}/a1/adapter",
        has_adapter=has_adapter,
    )
    session.add(model)
    session.flush()
    return model


def refusal(session: Session, project_id: str, name: str, settings: Settings) -> GrouptuneError:
    with pytest.raises(GrouptuneError) as caught:
        resolve(session, project_id, name, settings)
    assert caught.value.param == "model"
    return caught.value


def test_names_of_a_model(database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        project = make_project(session)
        model, checkpoint = publish(session, project), publish(session, project, step=4)
        aliases.move(session, project, "prod", model.id)
        session.flush()
        for name, adapter in ((model.id, model), (checkpoint.id, checkpoint), ("prod", model)):
            served = resolve(session, project, name, settings)
            assert (served.id, served.adapter, served.base.name) == (adapter.id, adapter, "tiny")
        for name in ("tiny", "gpt-4o-mini", "gpt-4o-mini-2024-07-18"):
            served = resolve(session, project, name, settings)
            assert (served.id, served.adapter, served.base.name) == ("tiny", None, "tiny")


def test_moved_alias_and_removed_permission_count_at_once(database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        owner, other = make_project(session), make_project(session, "other")
        old, new = publish(session, owner), publish(session, owner)
        aliases.move(session, owner, "prod", old.id)
        (permission,) = permissions.grant(session, owner, old.id, [other])
    with database.reading() as session:
        assert resolve(session, owner, "prod", settings).id == old.id
        assert resolve(session, other, old.id, settings).id == old.id
    with database.transaction() as session:
        aliases.move(session, owner, "prod", new.id)
        permissions.revoke(session, owner, old.id, permission.id)
    with database.reading() as session:
        assert resolve(session, owner, "prod", settings).id == new.id
        assert refusal(session, other, old.id, settings).code == "model_not_found"


@pytest.mark.parametrize(
    "name", ["ft:tiny:default::12345678", "ft:", "ft:x", "nothing", "broken", "../tiny", "", "ft:a:b"]
)
def test_unknown_name_gets_openais_error(name: str, database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        error = refusal(session, make_project(session), name, settings)
    assert (error.status, error.code) == (404, "model_not_found")
    assert error.message == f"The model `{name}` does not exist or you do not have access to it."


def test_other_projects_model_looks_unknown(database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        model, stranger = publish(session, make_project(session)), make_project(session, "stranger")
        error = refusal(session, stranger, model.id, settings)
    assert error.message == f"The model `{model.id}` does not exist or you do not have access to it."
    assert error.code == "model_not_found"


def test_unfinished_job_is_named(database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project, supervised().model_copy(update={"suffix": "sums"}))
        name = ids.fine_tuned_model("tiny", "default", "sums", job.id)
        for asked in (name, ids.checkpoint_model(name, 5)):
            error = refusal(session, project, asked, settings)
            assert (error.code, type(error)) == ("model_not_ready", NotFound)
            assert error.message == (
                f"The model '{asked}' does not exist yet: the job {job.id} that trains it is queued, at position 1."
            )
        lifecycle.pause(session, Actor(project), job.id)
        paused = refusal(session, project, name, settings).message
        assert f"is paused. POST /v1/fine_tuning/jobs/{job.id}/resume continues it." in paused
        lifecycle.cancel(session, Actor(project), job.id)
        assert refusal(session, project, name, settings).code == "model_not_found"


def test_running_job_states_its_step_and_time(database: Database, settings: Settings) -> None:
    """The remaining time is the job's, so a checkpoint's error has none; a step after the last one never comes."""
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        claim = leases.claim(session, "w", 60)
        assert claim is not None
    name = ids.fine_tuned_model("tiny", "default", None, job.id)
    journal = Journal(database, claim)
    journal.record([JournalEntry(STARTED.model_copy(update={"total_steps": 9}))])
    for step, ago in ((3, 120), (6, 60)):
        journal.record([JournalEntry(Metrics(step=step, values={}))])
        with database.transaction() as session:
            at = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, ago)
            session.execute(update(Metric).where(Metric.job_id == job.id, Metric.step == step).values(created_at=at))
            session.execute(update(JobAttempt).values(started_at=func.now() - func.make_interval(0, 0, 0, 1)))
    with database.transaction() as session:
        assert refusal(session, project, name, settings).message.endswith(
            "is running at step 6 of 9 and needs about 60 s more."
        )
        checkpoint = refusal(session, project, ids.checkpoint_model(name, 7), settings)
        assert checkpoint.message.endswith("is running at step 6 of 9.")
        assert refusal(session, project, ids.checkpoint_model(name, 10), settings).code == "model_not_found"
    journal.record([JournalEntry(Metrics(step=9, values={}))])
    with database.transaction() as session:
        assert "saves the model now" in refusal(session, project, name, settings).message


def test_deleted_model_names_its_time_and_a_replacement(database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        project = make_project(session)
        first = publish(session, project)
        second = TrainedModel(
            id=ids.checkpoint_model(first.id, 4),
            project_id=project,
            job_id=first.job_id,
            step=4,
            base_model="tiny",
            blob="x",
        )
        session.add(second)
        session.flush()
        for model, code, instead in (
            (first.id, "model_removed", f"Use '{second.id}' instead."),
            (second.id, "checkpoint_removed", "GET /v1/models lists the models that exist."),
        ):
            deletion.delete_model(session, project, model)
            record(session, Actor(project), Action.model_delete, model, before={"blob": "x"})
            error = refusal(session, project, model, settings)
            today = session.execute(select(func.now())).scalar_one().astimezone(UTC)
            assert (error.code, error.status) == (code, 404)
            assert error.message == f"The model '{model}' was deleted on {today:%Y-%m-%d at %H:%M} UTC. {instead}"
        # The audit log still knows them when their job is deleted as well; other projects learn nothing.
        deletion.delete_job(session, Actor(project), first.job_id)
        assert refusal(session, project, first.id, settings).code == "model_removed"
        assert refusal(session, make_project(session, "other"), first.id, settings).code == "model_not_found"


def test_removed_checkpoint(database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        project = make_project(session)
        checkpoint = publish(session, project, step=3)
        deletion.delete_model(session, project, checkpoint.id)
        error = refusal(session, project, checkpoint.id, settings)
        assert (error.code, error.status) == ("checkpoint_removed", 404)
        assert "UTC. A job keeps its newest checkpoints only. GET /v1/models" in error.message
        model = checkpoint.id.partition(":ckpt-step-")[0]
        for step in ("0", "4", "10", "x", "³", "9" * 30):
            assert refusal(session, project, f"{model}:ckpt-step-{step}", settings).code == "model_not_found"


def test_step_without_checkpoint_of_a_running_job(database: Database, settings: Settings) -> None:
    """A step that the job has passed gets no checkpoint any more."""
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        job.step = 6
        name = ids.fine_tuned_model("tiny", "default", None, job.id)
        codes = [refusal(session, project, ids.checkpoint_model(name, step), settings).code for step in (5, 6, 7)]
    assert codes == ["model_not_found", "model_not_ready", "model_not_ready"]


def test_checkpoint_without_adapter(database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        project = make_project(session)
        model = publish(session, project, step=4, has_adapter=False)
        assert refusal(session, project, model.id, settings).code == "adapter_missing"


def test_base_that_is_not_pulled(database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        error = refusal(session, make_project(session), "Qwen/Qwen3-0.6B", settings)
    assert (error.status, error.code) == (404, "model_not_pulled")
    assert "grouptune models pull qwen3-0.6b" in error.message
