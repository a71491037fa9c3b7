"""Marks the record of a repeatable request in the transaction in which the request takes effect.

A server that ends between that transaction and its response leaves the mark behind: a repetition must not run then.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.core.accounts.tables import IdempotentRequest
from app.core.errors import GrouptuneError


class RequestInProgress(GrouptuneError):
    """The first request with this Idempotency-Key is still running. Retry in a moment."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_in_progress"


@dataclass(frozen=True)
class Reservation:
    """The request is new. Run it, then call `store_response` or `release`; `withdraw` if the commit fails."""

    row_id: int
    created_at: datetime
    """After a crash Postgres may give the same id to another request."""


running: Final[ContextVar[Reservation | None]] = ContextVar("running", default=None)
"""The reservation of the request that the current context runs, if repetitions of it are recognised."""


def note(session: Session) -> None:
    """Note that the running request takes effect if this transaction commits.

    Raises `RequestInProgress` if a repetition runs instead: this server has not renewed its lease in time.
    """
    own = running.get()
    if own is None:
        return
    marked = session.scalars(
        update(IdempotentRequest)
        .where(
            IdempotentRequest.id == own.row_id,
            IdempotentRequest.created_at == own.created_at,
            IdempotentRequest.status.is_(None),
        )
        .values(has_effect=True)
        .returning(IdempotentRequest.id),
        execution_options={"synchronize_session": False},
    )
    if marked.one_or_none() is None:
        raise RequestInProgress
