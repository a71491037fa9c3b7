"""Which rows of its files a job can use: the checks that a job needs, their results, and the queue of missing ones.

A check depends on a file, a model's tokenizer and the settings that decide about rows. Its key is a hash of all but the
file, so later jobs with the same settings find the result. The check itself is `app.core.chat.row_check`.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.chat.encoding import Drop, RowRules, held_out_rules, rules_of
from app.core.chat.row_check import RowCounts
from app.core.chat.tokenizer import TOKENIZER_FILE
from app.core.errors import InvalidRequest
from app.core.files.tables import File, FileStatus
from app.core.jobs.events import Event, clean
from app.core.jobs.submission import Notice
from app.core.jobs.tables import Job, RowCheck
from app.core.models import registry
from app.core.spec.job import JobSpec

NAMES: Final = {"training_file": "training file", "validation_file": "validation file", "test_file": "test file"}
SHOWN_AS: Final = {"training_file": "rows", "validation_file": "held_out_rows", "test_file": "test_rows"}
"""Name in responses and events by parameter."""
_CONVERTED: Final = ("*.model", "*.tiktoken", "vocab.*")
"""Tokenizers that only a trainer can read, because it has transformers."""
_TOKENIZER_FILES: Final = ("*.json", "*.jinja", "additional_chat_templates/*.jinja")

_CLAIM: Final = text(
    """
    UPDATE row_checks SET claimed_until = now() + make_interval(secs => :seconds)
    FROM files
    WHERE files.id = row_checks.file_id AND (row_checks.file_id, row_checks.key) = (
        SELECT c.file_id, c.key FROM row_checks AS c JOIN files AS f ON f.id = c.file_id
        WHERE c.result IS NULL AND (c.claimed_until IS NULL OR c.claimed_until < now()) AND f.status = 'processed'
        ORDER BY c.created_at, c.file_id, c.key
        FOR UPDATE OF c SKIP LOCKED
        LIMIT 1
    )
    RETURNING row_checks.file_id, row_checks.key, row_checks.request, row_checks.claimed_until,
              COALESCE(files.rows_blob, files.blob) AS blob
    """
)


class CheckRequest(BaseModel):
    """What a check depends on besides the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """Canonical name of the base model."""
    fingerprint: str
    """Hash of the model's configuration, tokenizer and chat templates."""
    chat_template_kwargs: dict[str, Any]
    rules: dict[str, Any]
    """`RowRules` as JSON."""
    version: str
    """Of this package: another version may read rows differently."""

    @property
    def key(self) -> str:
        """Hash of all fields."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    @property
    def row_rules(self) -> RowRules:
        """The rules as the check takes them."""
        return RowRules(**self.rules)


class CheckError(BaseModel):
    """Why a job with this model and these files cannot run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    message: str


class CheckResult(BaseModel):
    """The result of a check: exactly one field is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    counts: RowCounts | None = None
    error: CheckError | None = None
    unchecked: str | None = None
    """Why the rows could not be rendered; the trainer counts them when the job starts."""


Results = Mapping[str, CheckResult | None]
"""The results of a job's checks by parameter; None for a check that is not made yet."""


@dataclass(frozen=True)
class CheckClaim:
    """A claimed check. `until` identifies the claim: each renewal or takeover changes it."""

    file_id: str
    key: str
    request: CheckRequest
    blob: str
    until: datetime


def requests_of(spec: JobSpec, model: registry.BaseModel, params: Collection[str]) -> dict[str, CheckRequest]:
    """Return the checks of a job with the files `params`, by parameter.

    None for a model whose tokenizer cannot be read on this machine.
    """
    if not model.is_pulled or (not (model.directory / TOKENIZER_FILE).is_file() and _is_converted(model.directory)):
        return {}
    context, fingerprint = model.context_length, _fingerprint(model.directory)
    held_out = held_out_rules(spec, context)
    rules = {param: rules_of(spec, context) if param == "training_file" else held_out for param in params}
    return {
        param: CheckRequest(
            model=model.name,
            fingerprint=fingerprint,
            chat_template_kwargs=spec.chat_template_kwargs,
            rules=asdict(one),
            version=version("grouptune"),
        )
        for param, one in rules.items()
    }


def _is_converted(directory: Path) -> bool:
    return any(next(directory.glob(pattern), None) for pattern in _CONVERTED)


def _fingerprint(directory: Path) -> str:
    digest = hashlib.sha256()
    for pattern in _TOKENIZER_FILES:
        for path in sorted(directory.glob(pattern)):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def find(session: Session, file_id: str, key: str) -> CheckResult | None:
    """Return the stored result of a check; None if it has not been made."""
    result = session.scalar(select(RowCheck.result).where(RowCheck.file_id == file_id, RowCheck.key == key))
    return None if result is None else CheckResult.model_validate(result)


def store(session: Session, file_id: str, request: CheckRequest, result: CheckResult | None) -> None:
    """Store a result, or without one queue the check; a known result stays."""
    values = {"file_id": file_id, "key": request.key, "request": request.model_dump(mode="json")}
    statement = insert(RowCheck)
    if result is None:
        session.execute(statement.values(values).on_conflict_do_nothing())
        return
    values["result"] = clean(result.model_dump(mode="json"))
    session.execute(
        statement.values(values).on_conflict_do_update(
            index_elements=["file_id", "key"],
            set_={"result": statement.excluded.result, "claimed_until": None},
            where=RowCheck.result.is_(None),
        )
    )


def any_due(session: Session) -> bool:
    """Return whether an unclaimed check of a validated file is due."""
    free = (RowCheck.claimed_until.is_(None)) | (RowCheck.claimed_until < func.now())
    due = select(RowCheck.key).join(File, File.id == RowCheck.file_id)
    due = due.where(RowCheck.result.is_(None), free, File.status == FileStatus.processed)
    return session.scalar(select(due.exists())) is True


def claim_next(session: Session, seconds: float) -> CheckClaim | None:
    """Claim the oldest due check for `seconds`, by the database's clock; None if none is due."""
    row = session.execute(_CLAIM, {"seconds": seconds}).one_or_none()
    if row is None:
        return None
    return CheckClaim(row.file_id, row.key, CheckRequest.model_validate(row.request), row.blob, row.claimed_until)


def renew(session: Session, claim: CheckClaim, seconds: float) -> CheckClaim | None:
    """Extend the claim to `seconds` from now. Returns None if another worker took over."""
    until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    renewed = session.scalar(
        update(RowCheck).where(*_held(claim)).values(claimed_until=until).returning(RowCheck.claimed_until),
        execution_options={"synchronize_session": False},
    )
    return None if renewed is None else replace(claim, until=renewed)


def settle(session: Session, claim: CheckClaim, result: CheckResult) -> bool:
    """Store the result. Returns False, without any change, if another worker took over or the file is deleted."""
    settled = session.execute(
        update(RowCheck)
        .where(*_held(claim))
        .values(result=clean(result.model_dump(mode="json")), claimed_until=None)
        .returning(RowCheck.key),
        execution_options={"synchronize_session": False},
    )
    return settled.one_or_none() is not None


def _held(claim: CheckClaim) -> tuple[Any, ...]:
    key = tuple_(RowCheck.file_id, RowCheck.key) == (claim.file_id, claim.key)
    return key, RowCheck.result.is_(None), RowCheck.claimed_until == claim.until


def results_of(session: Session, job: Job) -> dict[str, CheckResult | None]:
    """Return the results of the checks that a job waits for, by parameter; None for one that is not made yet."""
    return {param: find(session, job.files[param], key) for param, key in (job.row_checks or {}).items()}


def problems(spec: JobSpec, results: Results) -> Iterator[InvalidRequest]:
    """Yield an error for each file of which the job cannot use a single row, and for a model that it cannot use."""
    for param, result in results.items():
        if result is not None and result.error is not None:
            yield InvalidRequest(result.error.message, param="model", code=result.error.code)
            return
        counts = None if result is None else result.counts
        if counts is None or counts.used or not counts.lost:
            continue
        yield InvalidRequest(
            f"The method '{spec.method}' can use no row of the {NAMES[param]}. {counts.summary(NAMES[param])}. "
            f"{counts.cure()}",
            param=param,
            code="no_usable_rows",
        )


def warnings(results: Results) -> Iterator[Notice]:
    """Yield what a client should know about the rows of a job that is accepted."""
    for param, result in results.items():
        name = NAMES[param]
        if result is None:
            message = f"The {name} is large: its rows are rendered before the job starts, not by this request."
            yield Notice("rows_not_rendered", message, param)
        elif result.unchecked is not None:
            message = f"The rows of the {name} were not rendered in advance: {result.unchecked}."
            yield Notice("rows_not_rendered", message, param)
        elif (counts := result.counts) is not None:
            if counts.is_worrying:
                is_length = set(counts.dropped) <= {Drop.prompt_too_long, Drop.answer_too_long}
                code = "rows_too_long" if is_length else "rows_dropped"
                yield Notice(code, f"{counts.summary(name)}. {counts.cure()}", param)
            for omission, sentence in counts.omissions(name):
                yield Notice(f"{omission}_left_out", f"{sentence}.", param)
            # A notice about the converted field says already that the template may ignore `reasoning_effort`.
            unread = [variable for variable in counts.unread_variables if variable != "reasoning_effort"]
            if unread and param == "training_file":
                names = ", ".join(f"`{variable}`" for variable in unread)
                message = f"The model's chat template does not read {names}: no effect. Check the spelling."
                yield Notice("template_variable_unread", message, "chat_template_kwargs")


def use_of(counts: RowCounts) -> dict[str, Any]:
    """Return the counts as jobs, events and responses show them."""
    return {"used": counts.used, "dropped": {str(reason): number for reason, number in counts.dropped.items()}}


def shown(results: Results) -> dict[str, Any]:
    """Return the counts of a job's files by the names that they have in responses."""
    return {
        SHOWN_AS[param]: use_of(result.counts)
        for param, result in results.items()
        if result is not None and result.counts is not None
    }


def events(results: Results) -> Iterator[Event]:
    """Yield the warnings about the rows of a new job, and the counts of lost rows that deserve no warning."""
    for notice in warnings(results):
        result = results.get(notice.param)
        data: dict[str, Any] = {"code": notice.code, "param": notice.param}
        if notice.code in ("rows_too_long", "rows_dropped") and result is not None and result.counts is not None:
            data |= {SHOWN_AS[notice.param]: use_of(result.counts)}
        yield Event(notice.message, level="warn", data=data)
    for param, result in results.items():
        counts = None if result is None else result.counts
        if counts is not None and counts.lost and not counts.is_worrying:
            yield Event(f"{counts.summary(NAMES[param])}", data={SHOWN_AS[param]: use_of(counts)})
