"""What stays in the directories of attempts."""

from pathlib import Path

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.jobs import leases, lifecycle
from tests.setup_jobs import make_job, make_project
from worker.workspace import remove_leftovers


def attempt_directory(runs_dir: Path, job_id: str, attempt: int) -> Path:
    """Make the directory of an attempt as it is while its trainer runs."""
    directory = runs_dir / job_id / f"a{attempt}"
    (directory / "resume" / "step-00000004").mkdir(parents=True)
    for name in ("trainer.log", "spec.json", "training_file.jsonl", "resume/step-00000004/adapter.safetensors"):
        (directory / name).write_text(name)
    return directory


def test_inputs_of_killed_workers_are_removed(database: Database, tmp_path: Path) -> None:
    """A cancelled job whose worker was killed has no next attempt that would remove them."""
    with database.transaction() as session:
        project = make_project(session)
        cancelled, running = (make_job(session, project).id for _ in range(2))
        lifecycle.cancel(session, Actor(project), cancelled)
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        assert (claim.job_id, claim.attempt) == (running, 1)
    of_cancelled = attempt_directory(tmp_path, cancelled, 1)
    of_deleted = attempt_directory(tmp_path, "ftjob-deleted", 2)
    of_running = attempt_directory(tmp_path, running, 1)
    earlier = attempt_directory(tmp_path, running, 0)

    remove_leftovers(database, tmp_path)

    for directory in (of_cancelled, of_deleted, earlier):
        assert sorted(path.name for path in directory.iterdir()) == ["spec.json", "trainer.log"]
    assert (of_running / "training_file.jsonl").exists()
    assert (of_running / "resume" / "step-00000004" / "adapter.safetensors").exists()
