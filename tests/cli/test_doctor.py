"""`grouptune doctor` over a real database."""

import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from app.core.db import Database
from tests.setup_jobs import make_file, make_job, make_project


def doctor(database_url: str, state_dir: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DATABASE_URL": database_url, "GROUPTUNE_STATE_DIR": str(state_dir)}
    command = [sys.executable, "-m", "app.cli", "doctor", "--history"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_it_names_the_broken_job_and_what_is_broken(database: Database, migrated_url: str, tmp_path: Path) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project)
        job = make_job(session, project, file=file)
    blob = tmp_path / "storage" / file.blob
    blob.parent.mkdir(parents=True)
    blob.touch()
    healthy = doctor(migrated_url, tmp_path)
    assert (healthy.returncode, healthy.stderr) == (0, "All is well.\n")
    with database.transaction() as session:
        session.execute(text("DELETE FROM job_events WHERE seq = 1"))
    broken = doctor(migrated_url, tmp_path)
    assert broken.returncode == 1
    assert f"{job.id}: it does not hold that events are numbered" in broken.stderr
