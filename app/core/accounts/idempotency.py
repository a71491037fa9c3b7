"""Idempotency records: a repeated request takes effect once and gets the first one's response.

Repetitions are recognised by the client's own Idempotency-Key or, without one, by the retry count of OpenAI's SDK.

The life of a record: inserting the row reserves the request, before it runs. A success stores the response in the row;
a failure deletes the row, so the next repetition runs. A repetition that finds a row without a response waits for it.
For requests with a key, a row without a response after `ABANDONED_AFTER` belongs to a dead process and is deleted.

Records belong to one API key, so that no other key can read the responses.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.accounts import api_keys
from app.core.accounts.tables import IdempotentRequest
from app.core.errors import GrouptuneError

RETENTION: Final = timedelta(hours=24)
"""How long the response to a request with an Idempotency-Key is replayed."""
RETRY_WINDOW: Final = timedelta(minutes=15)
"""How long a retry without an Idempotency-Key is recognised; the SDK's own timeout is 10 minutes."""
ABANDONED_AFTER: Final = timedelta(minutes=10)
"""A request that has run this long without a response is considered lost with its process; the next one runs."""


class IdempotencyKeyReused(GrouptuneError):
    """This Idempotency-Key was used for a different request. Send a new key with a new request."""

    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class RequestInProgress(GrouptuneError):
    """The first request with this Idempotency-Key is still running. Retry in a moment."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_in_progress"


@dataclass(frozen=True)
class RequestRunning:
    """An earlier request is the same and has no response yet."""

    row_id: int


@dataclass(frozen=True)
class Reservation:
    """The request is new. Run it, then call `store_response` or `release`; `withdraw` if the commit fails."""

    row_id: int
    created_at: datetime


@dataclass(frozen=True)
class StoredResponse:
    """The response to the first request; `body` is None if it held a secret."""

    status: int
    body: bytes | None


LookupResult = RequestRunning | Reservation | StoredResponse


def look_up(session: Session, *, token: str, key: str | None, fingerprint: bytes, attempt: int) -> LookupResult:
    """Look up a request of the API key with the text `token`, or reserve it.

    Raises `IdempotencyKeyReused`, and `AuthenticationFailed`, so that requests without a valid API key leave no rows.
    """
    api_key_id = api_keys.authenticate(session, token).key.id
    if key is not None:
        return by_key(session, api_key_id, key, fingerprint)
    return by_retry(session, api_key_id, fingerprint, attempt)


def by_key(session: Session, api_key_id: str, key: str, fingerprint: bytes) -> LookupResult:
    """Look up a request by its Idempotency-Key, or reserve it. Raises `IdempotencyKeyReused`."""
    same_key = (IdempotentRequest.api_key_id == api_key_id, IdempotentRequest.key == key)
    stale = or_(
        IdempotentRequest.created_at < func.now() - RETENTION,
        IdempotentRequest.status.is_(None) & (IdempotentRequest.created_at < func.now() - ABANDONED_AFTER),
    )
    session.execute(delete(IdempotentRequest).where(*same_key, stale))
    reserved = session.execute(
        insert(IdempotentRequest)
        .values(api_key_id=api_key_id, key=key, fingerprint=fingerprint)
        .on_conflict_do_nothing()
        .returning(IdempotentRequest.id, IdempotentRequest.created_at)
    ).one_or_none()
    if reserved is not None:
        return Reservation(reserved.id, reserved.created_at)
    row = session.scalars(select(IdempotentRequest).where(*same_key)).one_or_none()
    if row is None:  # deleted between the two statements, because the first request failed
        return by_key(session, api_key_id, key, fingerprint)
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReused(param="Idempotency-Key")
    return _state(row)


def by_retry(session: Session, api_key_id: str, fingerprint: bytes, attempt: int) -> LookupResult:
    """Look up the request that this one retries, or reserve it. `attempt` is the SDK's retry count, from 0.

    A client may send equal requests on purpose. To keep them apart, each record stores the last attempt that it
    matched. Retry n matches, among the records with a last attempt below n, the one with the highest; of several, the
    oldest.
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
    record = IdempotentRequest(api_key_id=api_key_id, fingerprint=fingerprint, attempt=attempt)
    session.add(record)
    session.flush()
    return Reservation(record.id, record.created_at)


def find_response(session: Session, row_id: int) -> RequestRunning | StoredResponse | None:
    """Return the state of a request that was running; None if it failed and left no response."""
    row = session.get(IdempotentRequest, row_id)
    return None if row is None else _state(row)


def store_response(session: Session, row_id: int, response: StoredResponse) -> None:
    """Store the response."""
    values = {"status": response.status, "body": response.body}
    session.execute(update(IdempotentRequest).where(IdempotentRequest.id == row_id).values(values))


def release(session: Session, row_id: int) -> None:
    """Delete the record of a failed request, so that its next repetition runs."""
    session.execute(delete(IdempotentRequest).where(IdempotentRequest.id == row_id))


def withdraw(session: Session, reservation: Reservation) -> None:
    """Delete the record of a request that did not run because Postgres was lost during the commit, if it was committed.

    After a crash Postgres may give the same id to another request, hence the time.
    """
    own = (IdempotentRequest.id == reservation.row_id, IdempotentRequest.created_at == reservation.created_at)
    session.execute(delete(IdempotentRequest).where(*own))


def delete_expired(session: Session) -> int:
    """Delete records that can no longer be replayed; returns their number."""
    retries = IdempotentRequest.key.is_(None) & (IdempotentRequest.created_at < func.now() - RETRY_WINDOW)
    old = or_(IdempotentRequest.created_at < func.now() - RETENTION, retries)
    return len(session.scalars(delete(IdempotentRequest).where(old).returning(IdempotentRequest.id)).all())


def _state(row: IdempotentRequest) -> RequestRunning | StoredResponse:
    return RequestRunning(row.id) if row.status is None else StoredResponse(row.status, row.body)
