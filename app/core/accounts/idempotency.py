"""Idempotency records: a repeated request takes effect once and gets the first one's response.

Repetitions are recognised by the client's own Idempotency-Key or, without one, by the retry count of OpenAI's SDK.

The life of a record: inserting the row reserves the request, before it runs. A success stores the response in the row;
a failure deletes the row, so the next repetition runs. A repetition that finds a row without a response waits for it.

While the request runs, its server renews the lease of the row. After the lease the server is considered dead. Then the
next repetition runs, unless the request took effect (see `effects`): a repetition of that one gets `AnswerLost`.

Records belong to one API key, so that no other key can read the responses.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, case, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.accounts import api_keys
from app.core.accounts.effects import Reservation
from app.core.accounts.tables import IdempotentRequest
from app.core.errors import GrouptuneError

RETENTION: Final = timedelta(hours=24)
"""How long the response to a request with an Idempotency-Key is replayed."""
RETRY_WINDOW: Final = timedelta(minutes=15)
"""How long a retry without an Idempotency-Key is recognised; the SDK's own timeout is 10 minutes."""
LEASE_SECONDS: Final = 10.0
"""A server that has not renewed the lease of its request for this long is considered dead."""
_NO_LEASE: Final = timedelta(minutes=10)
"""The same for a request that a server of an earlier version runs, which renews no lease."""


class IdempotencyKeyReused(GrouptuneError):
    """This Idempotency-Key was used for a different request. Send a new key with a new request."""

    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class AnswerLost(GrouptuneError):
    """The first such request took effect, but its server ended before it responded. List the objects to find the new
    one. To make another one, send a new Idempotency-Key."""

    status = 409
    type = "invalid_request_error"
    code = "answer_lost"
    retry_helps = False


@dataclass(frozen=True)
class RequestRunning:
    """An earlier request is the same and has no response yet."""

    row_id: int


@dataclass(frozen=True)
class StoredResponse:
    """The response to the first request; `body` is None if it held a secret."""

    status: int
    body: bytes | None


LookupResult = RequestRunning | Reservation | StoredResponse

# While Postgres was away, no server could renew a lease: each gets time for it after a restart.
_restarted: Final = func.pg_postmaster_start_time() + timedelta(seconds=LEASE_SECONDS)
_lease_end: Final = case(
    (IdempotentRequest.lease_until.is_(None), IdempotentRequest.created_at + _NO_LEASE),
    else_=func.greatest(IdempotentRequest.lease_until, _restarted),
)
_is_abandoned: Final = IdempotentRequest.status.is_(None) & (_lease_end < func.now())
_may_run_again: Final = _is_abandoned & IdempotentRequest.has_effect.is_(False)


def look_up(session: Session, *, token: str, key: str | None, fingerprint: bytes, attempt: int) -> LookupResult:
    """Look up a request of the API key with the text `token`, or reserve it.

    Raises `IdempotencyKeyReused`, `AnswerLost`, and `AuthenticationFailed`, so that requests without a valid API key
    leave no rows.
    """
    api_key_id = api_keys.authenticate(session, token).key.id
    if key is not None:
        return by_key(session, api_key_id, key, fingerprint)
    return by_retry(session, api_key_id, fingerprint, attempt)


def by_key(session: Session, api_key_id: str, key: str, fingerprint: bytes) -> LookupResult:
    """Look up a request by its Idempotency-Key, or reserve it. Raises `IdempotencyKeyReused` and `AnswerLost`."""
    same_key = (IdempotentRequest.api_key_id == api_key_id, IdempotentRequest.key == key)
    stale = or_(IdempotentRequest.created_at < func.now() - RETENTION, _may_run_again)
    session.execute(delete(IdempotentRequest).where(*same_key, stale))
    reserved = session.execute(
        insert(IdempotentRequest)
        .values(api_key_id=api_key_id, key=key, fingerprint=fingerprint, lease_until=_lease())
        .on_conflict_do_nothing()
        .returning(IdempotentRequest.id, IdempotentRequest.created_at)
    ).one_or_none()
    if reserved is not None:
        return Reservation(reserved.id, reserved.created_at)
    found = session.execute(select(IdempotentRequest, _is_abandoned).where(*same_key)).one_or_none()
    if found is None:  # deleted between the two statements, because the first request failed
        return by_key(session, api_key_id, key, fingerprint)
    row, is_abandoned = found
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReused(param="Idempotency-Key")
    return _state(row, is_abandoned=is_abandoned)


def by_retry(session: Session, api_key_id: str, fingerprint: bytes, attempt: int) -> LookupResult:
    """Look up the request that this one retries, or reserve it. `attempt` is the SDK's retry count, from 0.

    A client may send equal requests on purpose. To keep them apart, each record stores the last attempt that it
    matched. Retry n matches, among the records with a last attempt below n, the one with the highest; of several, the
    oldest. Raises `AnswerLost`.
    """
    if attempt > 0:
        earlier = (
            select(IdempotentRequest, _is_abandoned)
            .where(
                IdempotentRequest.api_key_id == api_key_id,
                IdempotentRequest.key.is_(None),
                IdempotentRequest.fingerprint == fingerprint,
                IdempotentRequest.attempt < attempt,
                IdempotentRequest.created_at > func.now() - RETRY_WINDOW,
                ~_may_run_again,
            )
            .order_by(IdempotentRequest.attempt.desc(), IdempotentRequest.id)
            .limit(1)
            .with_for_update()
        )
        if (found := session.execute(earlier).one_or_none()) is not None:
            row, is_abandoned = found
            row.attempt = attempt
            session.flush()
            return _state(row, is_abandoned=is_abandoned)
    record = IdempotentRequest(api_key_id=api_key_id, fingerprint=fingerprint, attempt=attempt, lease_until=_lease())
    session.add(record)
    session.flush()
    return Reservation(record.id, record.created_at)


def find_response(session: Session, row_id: int) -> RequestRunning | StoredResponse | None:
    """Return the state of a request that was running; None if it left no response: look the repetition up again."""
    found = session.execute(
        select(IdempotentRequest, _is_abandoned).where(IdempotentRequest.id == row_id)
    ).one_or_none()
    return None if found is None or found[1] else _state(found[0], is_abandoned=False)


def renew(session: Session, row_id: int) -> None:
    """Renew the lease of a request that runs."""
    running = (IdempotentRequest.id == row_id, IdempotentRequest.status.is_(None))
    session.execute(update(IdempotentRequest).where(*running).values(lease_until=_lease()))


def store_response(session: Session, row_id: int, response: StoredResponse) -> None:
    """Store the response."""
    values = {"status": response.status, "body": response.body}
    session.execute(update(IdempotentRequest).where(IdempotentRequest.id == row_id).values(values))


def release(session: Session, row_id: int) -> None:
    """Delete the record of a failed request, so that its next repetition runs.

    If the request took effect before it failed, the record stays, and its lease ends.
    """
    own = IdempotentRequest.id == row_id
    session.execute(delete(IdempotentRequest).where(own, IdempotentRequest.has_effect.is_(False)))
    session.execute(update(IdempotentRequest).where(own).values(lease_until=func.now()))


def withdraw(session: Session, reservation: Reservation) -> None:
    """Delete the record, if it was committed, of a request that did not run because Postgres was lost in the commit."""
    own = (IdempotentRequest.id == reservation.row_id, IdempotentRequest.created_at == reservation.created_at)
    session.execute(delete(IdempotentRequest).where(*own))


def delete_expired(session: Session) -> int:
    """Delete records that can no longer be replayed; returns their number."""
    retries = IdempotentRequest.key.is_(None) & (IdempotentRequest.created_at < func.now() - RETRY_WINDOW)
    old = or_(IdempotentRequest.created_at < func.now() - RETENTION, retries)
    return len(session.scalars(delete(IdempotentRequest).where(old).returning(IdempotentRequest.id)).all())


def _lease() -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=LEASE_SECONDS)


def _state(row: IdempotentRequest, *, is_abandoned: bool) -> RequestRunning | StoredResponse:
    if is_abandoned:
        raise AnswerLost
    return RequestRunning(row.id) if row.status is None else StoredResponse(row.status, row.body)
