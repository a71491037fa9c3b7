"""Cache of teacher answers, by project and content address. It outlives attempts, jobs and workers."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import delete, func, text, update
from sqlalchemy.orm import Session

from app.core.spec.job import GroupMix
from app.core.spec.rows import RowError, read_rows
from app.core.spec.teacher_answers import TeacherAnswer, answer_key, question
from app.core.teachers.tables import StoredTeacherAnswer

KEPT: Final = timedelta(days=90)
"""An answer is kept for this time after an attempt last used it."""
AT_ONCE: Final = 500
"""Rows of a file that are looked up together."""

_KEEP: Final = text(
    """
    INSERT INTO teacher_answers (project_id, key, content, finished, model, provider, prompt_tokens,
                                 completion_tokens, answered_at)
    SELECT CAST(:project_id AS text), new.*
    FROM unnest(CAST(:keys AS text[]), CAST(:contents AS text[]), CAST(:finished AS bool[]), CAST(:models AS text[]),
                CAST(:providers AS text[]), CAST(:prompt_tokens AS int[]), CAST(:completion_tokens AS int[]),
                CAST(:answered_at AS timestamptz[])) AS new
    ORDER BY 2
    ON CONFLICT (project_id, key) DO NOTHING
    """
)
"""Inserts in the order of the keys, so that two jobs with the same questions cannot deadlock."""


def store(session: Session, project_id: str, answers: Sequence[TeacherAnswer]) -> None:
    """Store answers. The first answer to a question stays, and every later job gets it."""
    if not answers:
        return
    session.execute(
        _KEEP,
        {
            "project_id": project_id,
            "keys": [answer.key for answer in answers],
            "contents": [answer.content for answer in answers],
            "finished": [answer.finished for answer in answers],
            "models": [answer.model[:256] for answer in answers],
            "providers": [answer.provider[:255] for answer in answers],
            "prompt_tokens": [answer.prompt_tokens for answer in answers],
            "completion_tokens": [answer.completion_tokens for answer in answers],
            "answered_at": [answer.answered_at for answer in answers],
        },
    )


def find(session: Session, project_id: str, keys: Collection[str]) -> list[TeacherAnswer]:
    """Return the cached answers in the order of the keys, and mark them as used."""
    used = (
        update(StoredTeacherAnswer)
        .where(StoredTeacherAnswer.project_id == project_id, StoredTeacherAnswer.key.in_(keys))
        .values(used_at=func.now())
        .returning(StoredTeacherAnswer)
    )
    rows = {row.key: row for row in session.scalars(used, execution_options={"synchronize_session": False})}
    fields = TeacherAnswer.model_fields
    return [TeacherAnswer(**{name: getattr(rows[key], name) for name in fields}) for key in keys if key in rows]


def question_keys(path: Path, identity: dict[str, object], mix: GroupMix) -> Iterator[list[str]]:
    """Yield the keys of all answers that a job may request for the rows of a JSONL file, some rows at a time."""
    keys: list[str] = []
    with suppress(RowError):  # the trainer reports the bad row
        for number, (_, row) in enumerate(read_rows(path), start=1):
            row_question = question(identity, row.prompt_messages, row.tools)
            keys += [answer_key(row_question, answer) for answer in range(mix.teacher)]
            if number % AT_ONCE == 0:
                yield keys
                keys = []
    if keys:
        yield keys


def forget_old(session: Session) -> None:
    """Delete answers that no attempt has used for `KEPT`."""
    session.execute(delete(StoredTeacherAnswer).where(StoredTeacherAnswer.used_at < func.now() - KEPT))
