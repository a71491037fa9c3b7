"""Bodies of `/v1/files` and `/v1/uploads`."""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from app.api.ids import MAX_ID
from app.api.pagination import Item
from app.core.files.chunked_uploads import MAX_PARTS
from app.core.files.tables import File, FileStatus, Upload, UploadPart, UploadStatus
from app.core.files.uploads import MAX_EXPIRY_SECONDS, MIN_EXPIRY_SECONDS
from app.core.files.validation_report import has_answers
from app.core.spec.described import Described

MAX_BYTES: Final = 2**53
"""The largest integer that every JSON client reads exactly; the installation's own limit is far lower."""
_STRICT_PURPOSES: Final = {"evals": "user_data"}
"""OpenAI accepts this purpose in requests but not in responses, so typed clients reject it there."""


_FieldName = Annotated[str, Field(min_length=1, max_length=200)]


class ExpiresAfter(Described):
    """When a file expires."""

    anchor: Literal["created_at"]
    """The seconds count from the creation of the file."""
    seconds: Annotated[int, Field(ge=MIN_EXPIRY_SECONDS, le=MAX_EXPIRY_SECONDS)]
    """Seconds until the file is deleted."""


class FileObject(Item):
    """An uploaded file, or a result file of a job."""

    object: Literal["file"] = "file"
    bytes: int
    """Size of the file."""
    created_at: int = Field(description="Unix seconds.")
    filename: str
    """Name of the file as uploaded."""
    purpose: str
    """`fine-tune` for data files; result files of jobs have `fine-tune-results`."""
    status: FileStatus = Field(description="`uploaded` until the file is validated, then `processed` or `error`.")
    status_details: str | None = Field(description="Summary of the validation, with the line of the first error.")
    sha256: str = Field(description="Digest of the content. Files with the same digest are equal.")
    expires_at: int | None = Field(description="Unix seconds at which the file is deleted; null if it does not expire.")
    has_answers: bool | None = Field(
        description="Whether a row has an answer to learn from; null unless the file is valid training data."
    )

    @classmethod
    def of(cls, file: File, *, strict: bool) -> "FileObject":
        """Return the wire form of a row; `strict` uses only OpenAI's enum values."""
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=int(file.created_at.timestamp()),
            filename=file.filename,
            purpose=_STRICT_PURPOSES.get(file.purpose, file.purpose) if strict else file.purpose,
            status=FileStatus(file.status),
            status_details=file.status_details,
            sha256=file.sha256,
            expires_at=None if file.expires_at is None else int(file.expires_at.timestamp()),
            has_answers=has_answers(file.report) if file.report and file.status == FileStatus.processed else None,
        )


class FileDeleted(Described):
    """The file is deleted."""

    id: str
    """The file."""
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FileReportObject(Described):
    """The full validation report."""

    object: Literal["file.report"] = "file.report"
    file_id: str
    """The file."""
    status: FileStatus
    """`uploaded` until the file is validated, then `processed` or `error`."""
    summary: str | None = Field(description="The file's `status_details`.")
    report: dict[str, Any] | None = Field(
        description="Null until the file is validated. Contains `valid`, `rows`, `errors` and `warnings` (each with "
        "`line`, `param` and `message`), `error_count`, `item_fields`, `duplicate_rows`, the `longest` rows, "
        "`conversion` (the `map` with which `convert` makes the rows usable, or null), and how "
        "many rows have demonstrations or teacher responses."
    )


class ConvertFile(Described):
    """How to convert a file."""

    model_config = ConfigDict(extra="forbid")

    map: dict[_FieldName, _FieldName] = Field(
        default={},
        max_length=32,
        description="Fields of a row (`prompt`, `completion`, `system`, `messages`, or any for graders) and the "
        "columns to take them from; other columns stay. If empty, columns with the usual names are found. The report's "
        "`conversion` has the mapping that a valid file needs.",
    )
    limit: Annotated[int, Field(ge=1, le=100, description="Maximum number of rows; only for the preview.")] = 5


class ConvertedRows(Described):
    """The first rows of a file, converted."""

    object: Literal["file.conversion"] = "file.conversion"
    file_id: str
    """The file."""
    filename: str = Field(description="Name that the new file would get.")
    data: list[dict[str, Any]]
    """The rows in the format of data files."""


class CreateUpload(Described):
    """A file to upload in parts."""

    model_config = ConfigDict(extra="forbid")

    bytes: Annotated[int, Field(gt=0, le=MAX_BYTES, description="Size of the whole file in bytes.")]
    filename: Annotated[str, Field(min_length=1, max_length=1024)]
    """Name of the file."""
    mime_type: Annotated[
        str, Field(min_length=1, max_length=255, description="Any type is accepted; it is not checked.")
    ]
    purpose: Annotated[str, Field(max_length=MAX_ID)]
    """Purpose of the file: `fine-tune` for data files."""
    expires_after: ExpiresAfter | None = None
    """When the file expires; never if absent."""


class CompleteUpload(Described):
    """The parts that make up the file."""

    model_config = ConfigDict(extra="forbid")

    part_ids: Annotated[
        list[Annotated[str, Field(max_length=MAX_ID)]],
        Field(min_length=1, max_length=MAX_PARTS, description="Ids of the parts, in the file's order."),
    ]
    md5: Annotated[
        str | None,
        Field(
            max_length=32,
            pattern="^[0-9A-Fa-f]{32}$",
            description="MD5 of the whole file in hexadecimal; checked if present.",
        ),
    ] = None


class UploadObject(Item):
    """An upload in parts."""

    object: Literal["upload"] = "upload"
    bytes: int = Field(description="The announced size.")
    created_at: int
    """Unix seconds."""
    expires_at: int = Field(description="Unix seconds at which an incomplete upload is removed.")
    filename: str
    """Name of the file."""
    purpose: str
    """Purpose of the file."""
    status: UploadStatus
    """The state of the upload."""
    file: FileObject | None = Field(description="Set when the upload is completed.")

    @classmethod
    def of(cls, upload: Upload, file: File | None, *, strict: bool) -> "UploadObject":
        """Return the wire form of an upload and of its file, if completed."""
        return cls(
            id=upload.id,
            bytes=upload.bytes,
            created_at=int(upload.created_at.timestamp()),
            expires_at=int(upload.expires_at.timestamp()),
            filename=upload.filename,
            purpose=upload.purpose,
            status=UploadStatus(upload.status),
            file=None if file is None else FileObject.of(file, strict=strict),
        )


class UploadPartObject(Described):
    """One part of an upload."""

    id: str
    """Identifies the part, for the completion of the upload."""
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    """Unix seconds."""
    upload_id: str
    """The upload that the part belongs to."""

    @classmethod
    def of(cls, part: UploadPart) -> "UploadPartObject":
        """Return the wire form of a row."""
        return cls(id=part.id, created_at=int(part.created_at.timestamp()), upload_id=part.upload_id)
