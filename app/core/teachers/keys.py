"""A project's keys for teachers: one an origin, encrypted, and never sent anywhere else.

Jobs do not name them: the key of the origin of `teacher.base_url` is used, if the project has one.
"""

from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.accounts.tables import Project
from app.core.errors import BadSetup, InvalidRequest, NotFound
from app.core.secrets import KeyRing
from app.core.teachers.tables import TeacherKey

MAX_KEYS: Final = 50
"""Of a project."""
_OWN_PORTS: Final = {"https": 443, "http": 80}
_AUDITED: Final = ("origin", "hint")


def origin_of(url: str) -> str:
    """`scheme://host`, with the port where it is not the scheme's own."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (
        f":{parts.port}" if parts.port not in (None, _OWN_PORTS[parts.scheme]) else ""
    )


def put(session: Session, actor: Actor, ring: KeyRing, base_url: str, api_key: str) -> TeacherKey:
    """Stores the project's key for the origin of `base_url`, in place of one that is there.

    Raises `InvalidRequest` for one too many, and without a key ring.
    """
    session.execute(select(Project.id).where(Project.id == actor.project_id).with_for_update(key_share=True))
    origin = origin_of(base_url)
    found = session.scalars(_of(actor.project_id).where(TeacherKey.origin == origin)).one_or_none()
    before = None if found is None else audit.snapshot(found, *_AUDITED)
    if found is None:
        count = select(func.count()).select_from(TeacherKey).where(TeacherKey.project_id == actor.project_id)
        if (session.scalar(count) or 0) >= MAX_KEYS:
            raise InvalidRequest(f"A project has keys for at most {MAX_KEYS} teachers; delete one first.")
        found = TeacherKey(id=ids.teacher_key_id(), project_id=actor.project_id, origin=origin)
        session.add(found)
    found.secret, found.hint = _encrypted(ring, api_key), f"...{api_key[-4:]}" if len(api_key) > 12 else "..."
    found.updated_at = func.now()
    session.flush()
    session.refresh(found)
    after = audit.snapshot(found, *_AUDITED) | {"updated_at": int(found.updated_at.timestamp())}
    audit.record(session, actor, Action.teacher_key_set, found.id, before=before, after=after)
    return found


def list_keys(session: Session, project_id: str) -> list[TeacherKey]:
    """All of the project's, by origin."""
    return list(session.scalars(_of(project_id).order_by(TeacherKey.origin)))


def get_key(session: Session, project_id: str, key_id: str) -> TeacherKey:
    """Raises `NotFound`, also for another project's."""
    found = session.scalars(_of(project_id).where(TeacherKey.id == key_id)).one_or_none()
    if found is None:
        raise NotFound(f"There is no teacher key '{key_id}'.", code="teacher_key_not_found")
    return found


def delete(session: Session, actor: Actor, key_id: str) -> None:
    """Forgets the key; a job that asks that teacher goes without one from its next attempt on. Raises `NotFound`."""
    found = get_key(session, actor.project_id, key_id)
    audit.record(session, actor, Action.teacher_key_delete, found.id, before=audit.snapshot(found, *_AUDITED))
    session.delete(found)
    session.flush()


def secret_for(session: Session, project_id: str, base_url: str) -> bytes | None:
    """The encrypted key for the origin of `base_url`, None when the project has none."""
    of_it = select(TeacherKey.secret).where(
        TeacherKey.project_id == project_id, TeacherKey.origin == origin_of(base_url)
    )
    return session.scalar(of_it)


def _of(project_id: str) -> Select[TeacherKey]:
    return select(TeacherKey).where(TeacherKey.project_id == project_id)


def _encrypted(ring: KeyRing, secret: str) -> bytes:
    try:
        return ring.encrypt(secret)
    except BadSetup as error:  # no 5xx: trying again does not help, telling the operator does
        raise InvalidRequest(error.message, code=error.code) from error
