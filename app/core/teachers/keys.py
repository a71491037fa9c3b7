"""A project's API keys for teachers: encrypted, one per origin, and sent to that origin only.

Jobs do not name a key: the key for the origin of `teacher.base_url` is used, if the project has one.
"""

from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.accounts.tables import Project
from app.core.errors import InvalidRequest, NotFound
from app.core.secrets import KeyRing
from app.core.teachers.tables import TeacherKey

MAX_KEYS: Final = 50
"""Per project."""
_OWN_PORTS: Final = {"https": 443, "http": 80}
_AUDITED: Final = ("origin", "hint")


def origin_of(url: str) -> str:
    """Return `scheme://host`, with the port unless it is the scheme's default."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (
        f":{parts.port}" if parts.port not in (None, _OWN_PORTS[parts.scheme]) else ""
    )


def put(session: Session, actor: Actor, ring: KeyRing, base_url: str, api_key: str) -> TeacherKey:
    """Store or replace the project's key for the origin of `base_url`.

    Raises `InvalidRequest` at the limit of keys, and without a key ring.
    """
    session.execute(select(Project.id).where(Project.id == actor.project_id).with_for_update(key_share=True))
    origin = origin_of(base_url)
    key = session.scalars(_of(actor.project_id).where(TeacherKey.origin == origin)).one_or_none()
    before = None if key is None else audit.snapshot(key, *_AUDITED)
    if key is None:
        count = select(func.count()).select_from(TeacherKey).where(TeacherKey.project_id == actor.project_id)
        if (session.scalar(count) or 0) >= MAX_KEYS:
            raise InvalidRequest(f"A project has at most {MAX_KEYS} teacher keys. Delete one first.")
        key = TeacherKey(id=ids.teacher_key_id(), project_id=actor.project_id, origin=origin)
        session.add(key)
    key.secret, key.hint = ring.encrypt_for_client(api_key), f"...{api_key[-4:]}" if len(api_key) > 12 else "..."
    key.updated_at = func.now()
    session.flush()
    session.refresh(key)
    after = audit.snapshot(key, *_AUDITED) | {"updated_at": int(key.updated_at.timestamp())}
    audit.record(session, actor, Action.teacher_key_set, key.id, before=before, after=after)
    return key


def list_keys(session: Session, project_id: str) -> list[TeacherKey]:
    """Return the project's keys, by origin."""
    return list(session.scalars(_of(project_id).order_by(TeacherKey.origin)))


def get_key(session: Session, project_id: str, key_id: str) -> TeacherKey:
    """Return the key. Raises `NotFound`, also for a key of another project."""
    key = session.scalars(_of(project_id).where(TeacherKey.id == key_id)).one_or_none()
    if key is None:
        raise NotFound(f"The teacher key '{key_id}' does not exist in this project.", code="teacher_key_not_found")
    return key


def delete(session: Session, actor: Actor, key_id: str) -> None:
    """Delete the key. Jobs with this teacher run without a key from their next attempt on. Raises `NotFound`."""
    key = get_key(session, actor.project_id, key_id)
    audit.record(session, actor, Action.teacher_key_delete, key.id, before=audit.snapshot(key, *_AUDITED))
    session.delete(key)
    session.flush()


def secret_for(session: Session, project_id: str, base_url: str) -> bytes | None:
    """Return the encrypted key for the origin of `base_url`, or None if the project has no such key."""
    secret = select(TeacherKey.secret).where(
        TeacherKey.project_id == project_id, TeacherKey.origin == origin_of(base_url)
    )
    return session.scalar(secret)


def _of(project_id: str) -> Select[TeacherKey]:
    return select(TeacherKey).where(TeacherKey.project_id == project_id)
