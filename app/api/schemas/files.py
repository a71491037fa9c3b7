"""Files on the wire."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.pagination import Item
from app.core.files.tables import File, FileStatus


class FileObject(Item):
    """An uploaded file."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Unix seconds.")
    filename: str
    purpose: str
    status: FileStatus = Field(description="`uploaded` until it is validated, then `processed` or `error`.")
    status_details: str | None = Field(description="What the validation found, with the line of the first error.")
    expires_at: int | None = None

    @classmethod
    def of(cls, file: File) -> "FileObject":
        """The wire form of a row."""
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=int(file.created_at.timestamp()),
            filename=file.filename,
            purpose=file.purpose,
            status=FileStatus(file.status),
            status_details=file.status_details,
        )


class FileDeleted(BaseModel):
    """The file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FileReportObject(BaseModel):
    """Everything that the validation found, by line."""

    object: Literal["file.report"] = "file.report"
    file_id: str
    status: FileStatus
    summary: str | None = Field(description="The file's `status_details`.")
    report: dict[str, Any] | None = Field(
        description="Null until the file is validated: `valid`, `rows`, `errors` and `warnings` (each with "
        "`line`, `param`, `message`), `error_count`, `item_fields` and how many rows have demonstrations or "
        "teacher responses."
    )
