"""What teachers have answered, by project and content address. It outlives attempts, jobs and workers."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import delete, func, text, update
from sqlalchemy.orm import Session

from app.core.spec.job import GroupMix
from app.core.spec.rows import RowError, parse_row
from app.core.spec.teacher_answers import TeacherAnswer, answer_key, question
from app.core.teachers.tables import StoredAnswer

KEPT: Final = timedelta(days=90)
"""Since an attempt last used it."""
AT_ONCE: Final = 500
"""Rows that are looked up together."""

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
"""In the order of the keys, so that two jobs with the same questions cannot wait for each other in a circle."""


def keep(session: Session, project_id: str, answers: Sequence[TeacherAnswer]) -> None:
    """Adds answers. The first answer to a question stays: everybody who asks it gets that one."""
    if not answers:
        return
    session.execute(
        _KEEP,
        {
            "project_id": project_id,
            "keys": [one.key for one in answers],
            "contents": [one.content for one in answers],
            "finished": [one.finished for one in answers],
            "models": [one.model[:256] for one in answers],
            "providers": [one.provider[:255] for one in answers],
            "prompt_tokens": [one.prompt_tokens for one in answers],
            "completion_tokens": [one.completion_tokens for one in answers],
            "answered_at": [one.answered_at for one in answers],
        },
    )


def known(session: Session, project_id: str, keys: Collection[str]) -> list[TeacherAnswer]:
    """Those answers that are there, in the order of the keys; notes that they were used."""
    used = (
        update(StoredAnswer)
        .where(StoredAnswer.project_id == project_id, StoredAnswer.key.in_(keys))
        .values(used_at=func.now())
        .returning(StoredAnswer)
    )
    rows = {row.key: row for row in session.scalars(used, execution_options={"synchronize_session": False})}
    fields = TeacherAnswer.model_fields
    return [TeacherAnswer(**{name: getattr(rows[key], name) for name in fields}) for key in keys if key in rows]


def questions(path: Path, identity: dict[str, object], mix: GroupMix) -> Iterator[list[str]]:
    """The keys of all that a job may ask about the rows of a JSONL file, some rows at a time."""
    keys: list[str] = []
    with path.open("rb") as lines:
        for line, raw in enumerate(lines, start=1):
            if raw.strip():
                keys += _of_row(raw, line, identity, mix)
            if line % AT_ONCE == 0 and keys:
                yield keys
                keys = []
    if keys:
        yield keys


def _of_row(raw: bytes, line: int, identity: dict[str, object], mix: GroupMix) -> Iterable[str]:
    try:
        row = parse_row(raw, line)
    except RowError:
        return []  # the trainer refuses it, and says so
    asked = question(identity, row.prompt_messages, row.tools)
    return [answer_key(asked, number) for number in range(mix.teacher)]


def forget_old(session: Session) -> None:
    """Removes what no attempt has used for `KEPT`."""
    session.execute(delete(StoredAnswer).where(StoredAnswer.used_at < func.now() - KEPT))
