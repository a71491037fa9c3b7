"""Bodies of `/v1/teacher_keys`."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from app.api.pagination import Item
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen
from app.core.spec.teacher_answers import BaseUrl
from app.core.teachers.tables import TeacherKey


class SetTeacherKey(Frozen):
    """A key and the server that it is for."""

    base_url: Annotated[
        BaseUrl, Field(description="As in `teacher.base_url`. The key is sent to all paths of its host.")
    ]
    api_key: Annotated[SecretStr, Field(min_length=1, max_length=4096, description="Stored encrypted and never shown.")]


class TeacherKeyObject(Item):
    """A teacher key without its secret."""

    object: Literal["teacher_key"] = "teacher_key"
    origin: str = Field(description="The only server that receives the key.")
    api_key_hint: str
    """The end of the key, to recognise it."""
    created_at: int
    """Unix seconds."""
    updated_at: int
    """Unix seconds."""

    @classmethod
    def of(cls, key: TeacherKey) -> "TeacherKeyObject":
        """Return the wire form of a row."""
        return cls(
            id=key.id,
            origin=key.origin,
            api_key_hint=key.hint,
            created_at=int(key.created_at.timestamp()),
            updated_at=int(key.updated_at.timestamp()),
        )


class TeacherKeyDeleted(Described):
    """The key is deleted."""

    id: str
    """The teacher key."""
    object: Literal["teacher_key.deleted"] = "teacher_key.deleted"
    deleted: Literal[True] = True
