"""A job that does not fit its files is rejected, and the error names the parameter to change."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.files.tables import File, FileStatus
from app.core.files.validation import validate_file, validate_rows
from app.core.jobs import lifecycle
from app.core.jobs.submission import JobRequest, check_file, check_test_file, find_overlaps
from app.core.jobs.tables import JobEvent
from app.core.spec.graders import StringCheckGrader
from app.core.spec.job import GroupMethod, GroupMix, JobSpec, MethodType, Teacher
from tests.setup_jobs import make_file, make_project, supervised

FULL = {
    "messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}],
    "reference_answer": "2",
}
PROMPT = {"messages": [{"role": "user", "content": "1+1"}], "reference_answer": "2"}


def report(tmp_path: Path, *rows: object) -> dict[str, object]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return validate_file(path).model_dump(mode="json")


def gft(reference: str = "{{item.reference_answer}}", group: GroupMix | None = None) -> JobSpec:
    grader = StringCheckGrader(input="{{sample.output_text}}", reference=reference, operation="eq")
    settings = GroupMethod(grader=grader, group=group or GroupMix())
    return JobSpec(model="tiny", method=MethodType.gft, settings=settings, seed=1)


def refusal(database: Database, spec: JobSpec, report: dict[str, object] | None, **file: object) -> InvalidRequest:
    with database.transaction() as session:
        project = make_project(session)
        made = make_file(session, project, report=report, **file)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest) as caught:
            check_file(session, project, spec, made.id, "training_file")
    return caught.value


def test_fitting_file_passes(database: Database, tmp_path: Path) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file: File = make_file(session, project, report=report(tmp_path, FULL, PROMPT))
        waiting = make_file(session, project, status=FileStatus.uploaded)
        for param in ("training_file", "validation_file"):
            check_file(session, project, gft(), file.id, param)
        check_file(session, project, supervised(), waiting.id, "validation_file")


def test_missing_file_is_named(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, make_project(session, "other"))
        mine = make_file(session, project)
        for param in ("training_file", "validation_file"):
            check_file(session, project, supervised(), mine.id, param)
            with pytest.raises(InvalidRequest) as caught:
                check_file(session, project, supervised(), file.id, param)
            assert caught.value.param == param
            assert caught.value.code == "file_not_found"


def test_file_error_quotes_first_bad_line(database: Database, tmp_path: Path) -> None:
    error = refusal(database, supervised(), report(tmp_path, FULL, FULL, "text"), status=FileStatus.error)
    assert (error.param, error.code) == ("training_file", "invalid_file")
    assert "line 3:" in error.message


def test_wrong_purpose_rejected(database: Database) -> None:
    error = refusal(database, supervised(), None, purpose="batch")
    assert error.param == "training_file"
    assert "'batch'" in error.message


def test_missing_grader_field_is_named(database: Database, tmp_path: Path) -> None:
    without = {"messages": FULL["messages"]}
    error = refusal(database, gft(), report(tmp_path, FULL, without))
    assert error.param == "method.gft.grader.reference"
    assert "item.reference_answer, but only 1 of 2 rows" in error.message


def test_supervised_needs_demonstrations(database: Database, tmp_path: Path) -> None:
    error = refusal(database, supervised(), report(tmp_path, PROMPT))
    assert error.param == "training_file"
    assert "an answer to learn from" in error.message


PAIR = {"prompt": "1+1", "chosen": "2", "rejected": "3"}


def dpo(**settings: object) -> JobSpec:
    return JobSpec.model_validate({"model": "tiny", "method": "dpo", "settings": settings, "seed": 1})


def test_dpo_needs_pairs(database: Database, tmp_path: Path) -> None:
    error = refusal(database, dpo(), report(tmp_path, FULL))
    assert (error.param, error.code) == ("training_file", "invalid_file")
    assert "two answers to the same prompt" in error.message


def test_pairs_point_to_dpo(database: Database, tmp_path: Path) -> None:
    error = refusal(database, supervised(), report(tmp_path, PAIR, PAIR | {"prompt": "1+2"}))
    assert "2 pairs of answers, which method.type 'dpo' learns from" in error.message


def test_held_out_rows_need_pairs_or_a_grader(database: Database, tmp_path: Path) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project, report=report(tmp_path, FULL))
        with pytest.raises(InvalidRequest, match="has no pairs of answers") as caught:
            check_file(session, project, dpo(), file.id, "validation_file")
        assert caught.value.param == "validation_file"
        grader = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "2", "operation": "eq"}
        check_file(session, project, dpo(grader=grader), file.id, "validation_file")
        pairs = make_file(session, project, report=report(tmp_path, PAIR))
        for param in ("training_file", "validation_file"):
            check_file(session, project, dpo(), pairs.id, param)


def test_group_without_members_rejected(database: Database, tmp_path: Path) -> None:
    spec = gft(group=GroupMix(expert=1, teacher=2, self_=0))
    assert "group.self" in refusal(database, spec, report(tmp_path, PROMPT)).message


def test_lone_demonstration_error_names_teacher(database: Database, tmp_path: Path) -> None:
    given = GroupMix(expert=1, teacher=2, self_=0)
    error = refusal(database, gft(group=given), report(tmp_path, FULL))
    assert (error.code, error.param) == ("missing_teacher", "method.gft.teacher")
    assert "Set a `teacher`, add `teacher_responses`" in error.message
    with database.transaction() as session:
        project = make_project(session, "other")
        file = make_file(session, project, report=report(tmp_path, FULL))
        taught = gft(group=given).model_copy(deep=True)
        settings = taught.settings.model_copy(update={"teacher": Teacher(model="tiny")})
        check_file(session, project, taught.model_copy(update={"settings": settings}), file.id, "training_file")


def file_of(session: Session, project: str, path: Path, *prompts: str) -> File:
    path.write_text("".join(f'{{"prompt": "{prompt}", "completion": "a"}}\n' if prompt else "\n" for prompt in prompts))
    found = validate_rows(path)
    file = make_file(session, project, report=found.report.model_dump(mode="json"))
    file.prompts = found.prompts.to_bytes()
    session.flush()
    return file


def test_overlap_event_names_lines(database: Database, tmp_path: Path) -> None:
    with database.transaction() as session:
        project = make_project(session)
        training = file_of(session, project, tmp_path / "t", *(str(n) for n in range(30)))
        held_out = file_of(session, project, tmp_path / "h", "new", "", *(str(n) for n in range(6)))
        job = lifecycle.create(
            session, Actor(project), spec=supervised(), training_file=training.id, validation_file=held_out.id
        )
        [event] = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id, JobEvent.level == "warn"))
        assert event.message == (
            "The prompts of 6 of 7 held-out rows are also in the training file (line 3 is training line 1, line 4 "
            "is training line 2, line 5 is training line 3, line 6 is training line 4, line 7 is training line 5, "
            "...), so the held-out results will look too good. Remove these rows from one of the files."
        )
        assert event.data == {"code": "held_out_overlap", "param": "validation_file"}
        other = file_of(session, project, tmp_path / "o", "new")
        assert find_overlaps(session, {"training_file": training.id, "validation_file": other.id}) == []
        assert find_overlaps(session, {"training_file": training.id}) == []
        files = {"training_file": training.id, "validation_file": held_out.id, "test_file": other.id}
        _, overlap = find_overlaps(session, files)
        assert str(overlap).startswith("The prompts of 1 of 1 test row are also in the validation file (line 1 is ")
        other.prompts = None  # validated before prompts were kept
        session.flush()
        assert len(find_overlaps(session, files)) == 1


@pytest.mark.parametrize(
    ("validation_file", "message"), [(None, "needs a validation_file"), ("b", "would also report")]
)
def test_test_file_needs_other_rows_that_select(validation_file: str | None, message: str) -> None:
    request = JobRequest(supervised(), "a", validation_file, 0, test_file="b")
    with pytest.raises(InvalidRequest, match=message) as caught:
        check_test_file(request)
    assert caught.value.param == "test_file"
    check_test_file(JobRequest(supervised(), "a", "c", 0, test_file="b"))
