"""Requests that must take effect once, however often they are sent: those with a key of the client's own, and the
retries that OpenAI's SDK sends without one.

A row is written before the request runs, and gets its answer when it has succeeded; a request that fails leaves none.
Rows belong to one API key: no other key can fetch the answers.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.accounts import api_keys
from app.core.accounts.tables import IdempotentRequest
from app.core.errors import GrouptuneError

RETENTION: Final = timedelta(hours=24)
"""How long an answer is given again for a key."""
RETRY_WINDOW: Final = timedelta(minutes=15)
"""How long a retry without a key is recognised; the SDK's own timeout is 10 minutes."""
ABANDONED_AFTER: Final = timedelta(minutes=10)
"""A request that has run so long without an answer was lost with its process; the next one runs."""


class IdempotencyKeyReused(GrouptuneError):
    """This Idempotency-Key came with another request before; send a new key for a new request."""

    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class RequestInProgress(GrouptuneError):
    """The first request with this Idempotency-Key still runs; send it again in a moment."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_in_progress"


@dataclass(frozen=True)
class RequestRunning:
    """The request was sent before, and has not been answered yet."""

    row_id: int


@dataclass(frozen=True)
class Reservation:
    """The request is new: run it, then `keep` or `release`."""

    row_id: int


@dataclass(frozen=True)
class StoredResponse:
    """What the first request was answered; `body` is None where it held a secret."""

    status: int
    body: bytes | None


LookupResult = RequestRunning | Reservation | StoredResponse


def look_up(session: Session, *, token: str, key: str | None, fingerprint: bytes, attempt: int) -> LookupResult:
    """Looks a request of the API key with the text `token` up, or reserves it.

    Raises `AuthenticationFailed`, so that nobody without a key of ours leaves rows here, and `IdempotencyKeyReused`.
    """
    api_key_id = api_keys.authenticate(session, token).key.id
    if key is not None:
        return by_key(session, api_key_id, key, fingerprint)
    return by_retry(session, api_key_id, fingerprint, attempt)


def by_key(session: Session, api_key_id: str, key: str, fingerprint: bytes) -> LookupResult:
    """Look up a request with a key, or reserve it. Raises `IdempotencyKeyReused`."""
    same_key = (IdempotentRequest.api_key_id == api_key_id, IdempotentRequest.key == key)
    stale = or_(
        IdempotentRequest.created_at < func.now() - RETENTION,
        IdempotentRequest.status.is_(None) & (IdempotentRequest.created_at < func.now() - ABANDONED_AFTER),
    )
    session.execute(delete(IdempotentRequest).where(*same_key, stale))
    made = session.scalar(
        insert(IdempotentRequest)
        .values(api_key_id=api_key_id, key=key, fingerprint=fingerprint)
        .on_conflict_do_nothing()
        .returning(IdempotentRequest.id)
    )
    if made is not None:
        return Reservation(made)
    row = session.scalars(select(IdempotentRequest).where(*same_key)).one_or_none()
    if row is None:  # released between the two statements
        return by_key(session, api_key_id, key, fingerprint)
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReused(param="Idempotency-Key")
    return _state(row)


def by_retry(session: Session, api_key_id: str, fingerprint: bytes, attempt: int) -> LookupResult:
    """Looks the request up whose `attempt`-th retry (0: none) this is by the SDK's count, or reserves it.

    Equal requests that were sent on purpose are not mixed up: each retry takes the oldest one that still lacks it.
    """
    if attempt > 0:
        earlier = (
            select(IdempotentRequest)
            .where(
                IdempotentRequest.api_key_id == api_key_id,
                IdempotentRequest.key.is_(None),
                IdempotentRequest.fingerprint == fingerprint,
                IdempotentRequest.attempt < attempt,
                IdempotentRequest.created_at > func.now() - RETRY_WINDOW,
            )
            .order_by(IdempotentRequest.attempt.desc(), IdempotentRequest.id)
            .limit(1)
            .with_for_update()
        )
        if (row := session.scalars(earlier).one_or_none()) is not None:
            row.attempt = attempt
            session.flush()
            return _state(row)
    made = IdempotentRequest(api_key_id=api_key_id, fingerprint=fingerprint, attempt=attempt)
    session.add(made)
    session.flush()
    return Reservation(made.id)


def find_response(session: Session, row_id: int) -> RequestRunning | StoredResponse | None:
    """What became of a request that ran; None when it failed and has left no answer."""
    row = session.get(IdempotentRequest, row_id)
    return None if row is None else _state(row)


def store_response(session: Session, row_id: int, response: StoredResponse) -> None:
    """Writes the answer down."""
    values = {"status": response.status, "body": response.body}
    session.execute(update(IdempotentRequest).where(IdempotentRequest.id == row_id).values(values))


def release(session: Session, row_id: int) -> None:
    """Forgets a request that failed, so that the next one runs."""
    session.execute(delete(IdempotentRequest).where(IdempotentRequest.id == row_id))


def delete_expired(session: Session) -> int:
    """Deletes what is not given again any more; returns how many rows that were."""
    retries = IdempotentRequest.key.is_(None) & (IdempotentRequest.created_at < func.now() - RETRY_WINDOW)
    old = or_(IdempotentRequest.created_at < func.now() - RETENTION, retries)
    return len(session.scalars(delete(IdempotentRequest).where(old).returning(IdempotentRequest.id)).all())


def _state(row: IdempotentRequest) -> RequestRunning | StoredResponse:
    return RequestRunning(row.id) if row.status is None else StoredResponse(row.status, row.body)
