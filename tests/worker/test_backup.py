"""A backup end to end: train, `grouptune db dump`, `db restore` into another installation, resume training there."""

import os
import signal
from dataclasses import replace
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.jobs import lifecycle
from app.core.jobs.state_machine import JobStatus
from app.core.storage.local import LocalBlobStore
from tests.forked import Program
from tests.interpreter.sitecustomize import OWN_INTERPRETER
from tests.processes import is_pending
from tests.setup_jobs import make_job, stored_file, supervised
from tests.waiting import eventually
from tests.worker.conftest import Plant
from tests.worker.test_tasks import trainers

STEPS = 480
"""Takes seconds, so that the trainer can be suspended in the middle."""


def long_job(plant: Plant) -> str:
    with plant.database.transaction() as session:
        file = stored_file(session, plant.store, plant.project, plant.directory, rows=120)
        spec = supervised(batch_size=2, n_epochs=STEPS // 60, checkpoint_interval=1000)
        spec = spec.model_copy(update={"metadata": {OWN_INTERPRETER: "yes"}})
        return make_job(session, plant.project, spec, file).id


def grouptune(plant: Plant, *words: object) -> tuple[int, str, str]:
    """Run `grouptune WORDS...`; return its exit code, standard output and error."""
    out, err = plant.directory / "out", plant.directory / "err"
    environment = os.environ | plant.environment
    with Program("app.cli", words, directory=plant.directory, environment=environment, stdout=out, stderr=err) as done:
        return done.wait(240), out.read_text(), err.read_text()


def other_plant(plant: Plant, directory: Path) -> Plant:
    """Return a fresh installation: another database and state directory, the same broker and models."""
    directory.mkdir()
    url = make_url(plant.environment["DATABASE_URL"])
    name = f"{url.database}_restored"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    database_url = url.set(database=name).render_as_string(hide_password=False)
    environment = plant.environment | {"DATABASE_URL": database_url, "GROUPTUNE_STATE_DIR": str(directory / "state")}
    store = LocalBlobStore(directory / "state" / "storage")
    return replace(plant, database=Database(database_url), store=store, directory=directory, environment=environment)


def test_paused_job_resumes_after_restore(plant: Plant, tmp_path: Path) -> None:
    done, paused = plant.submit(max_steps=3), long_job(plant)
    with plant.train_worker():
        plant.wait_for(done, JobStatus.succeeded)
        plant.wait_for_step(paused, 1)
        [trainer] = trainers(paused)
        os.kill(trainer, signal.SIGSTOP)  # so that the pause arrives before its last step
        with plant.database.transaction() as session:
            lifecycle.pause(session, Actor(plant.project), paused)
        eventually(lambda: is_pending(trainer, signal.SIGTERM))
        os.kill(trainer, signal.SIGCONT)
        stopped_at = plant.wait_for(paused, JobStatus.paused).step
    assert 0 < stopped_at < STEPS
    backup = tmp_path / "installation.tar"
    code, printed, messages = grouptune(plant, "db", "dump", backup)
    assert (code, printed) == (0, f"{backup}\n"), messages
    assert backup.stat().st_mode & 0o777 == 0o600
    assert grouptune(plant, "db", "dump", backup)[0] == 1  # an existing file is not overwritten
    other = other_plant(plant, tmp_path / "other")
    try:
        code, _, messages = grouptune(other, "db", "restore", backup)
        assert code == 0, messages
        assert "Restored" in messages
        assert grouptune(other, "db", "restore", backup)[0] == 1  # an installation with data is not overwritten
        with other.database.transaction() as session:
            lifecycle.resume(session, Actor(plant.project), paused)
        with other.train_worker("restored"):
            job = other.wait_for(paused, JobStatus.succeeded)
        assert (job.step, other.attempts(paused)[-1].resumed_from_step) == (STEPS, stopped_at)
        code, _, messages = grouptune(other, "doctor", "--history")
        assert code == 0, messages
    finally:
        other.database.dispose()
