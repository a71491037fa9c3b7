"""Prompts of the held-out file that are trained on are told in the job's events."""

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.files.tables import File
from app.core.files.validation import validate_rows
from app.core.jobs import lifecycle
from app.core.jobs.overlap import find_overlap
from app.core.jobs.tables import JobEvent
from tests.setup_jobs import make_file, make_project, supervised


def file_of(session: Session, project: str, path: Path, *prompts: str) -> File:
    path.write_text("".join(f'{{"prompt": "{prompt}", "completion": "a"}}\n' if prompt else "\n" for prompt in prompts))
    found = validate_rows(path)
    file = make_file(session, project, report=found.report.model_dump(mode="json"))
    file.prompts = found.prompts.to_bytes()
    session.flush()
    return file


def test_an_event_names_the_lines_that_both_files_have(database: Database, tmp_path: Path) -> None:
    with database.transaction() as session:
        project = make_project(session)
        training = file_of(session, project, tmp_path / "t", *(str(n) for n in range(30)))
        held_out = file_of(session, project, tmp_path / "h", "new", "", *(str(n) for n in range(6)))
        job = lifecycle.create(
            session, project_id=project, spec=supervised(), training_file=training.id, validation_file=held_out.id
        )
        [event] = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id, JobEvent.level == "warn"))
        assert event.message == (
            "6 of 7 held-out rows have a prompt that the training file has too (line 3 is line 1 there, line 4 is line "
            "2 there, line 5 is line 3 there, line 6 is line 4 there, line 7 is line 5 there, ...): results on them "
            "look better than they are. Drop them from one of the files."
        )
        assert event.data == {"code": "held_out_overlap"}
        other = file_of(session, project, tmp_path / "o", "new")
        assert find_overlap(session, training.id, other.id) is None
        assert find_overlap(session, training.id, None) is None
        other.prompts = None  # validated before prompts were kept
        session.flush()
        assert find_overlap(session, training.id, other.id) is None
