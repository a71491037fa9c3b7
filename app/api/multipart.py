"""Receives multipart uploads after authentication. Starlette spools them to disk, so memory stays flat."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Final

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from app.api.deps import Db
from app.api.ids import MAX_ID
from app.api.middleware.body_limit import FORM_OVERHEAD_BYTES
from app.api.schemas.files import ExpiresAfter
from app.auth.bearer import Caller
from app.core.errors import InvalidRequest
from app.core.jobs import quotas

CHUNK_BYTES: Final = 1 << 20
MAX_FIELDS: Final = 16
EXPIRY_FIELDS: Final = {"expires_after[anchor]": "anchor", "expires_after[seconds]": "seconds"}


def _request_body(required: list[str], **fields: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


FILE_BODY: Final = _request_body(
    ["purpose", "file"],
    purpose={"type": "string", "maxLength": MAX_ID, "description": "`fine-tune` for training and validation data."},
    expires_after={
        **ExpiresAfter.model_json_schema(),
        "description": "Sent as the fields `expires_after[anchor]` and `expires_after[seconds]`.",
    },
    file={"type": "string", "format": "binary", "description": "JSONL, one object per line."},
)
"""For the OpenAPI document: FastAPI cannot see a form that the handler reads by itself."""
PART_BODY: Final = _request_body(
    ["data"], data={"type": "string", "format": "binary", "description": "A part of the file, at most 64 MiB."}
)
"""The same for a part of an upload."""


@dataclass(frozen=True)
class FormPart:
    """The file part of a form."""

    filename: str
    stream: BinaryIO

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, 1 MiB at a time."""
        while chunk := self.stream.read(CHUNK_BYTES):
            yield chunk


@dataclass(frozen=True)
class FileForm(FormPart):
    """The file part of a form together with the form's other fields."""

    purpose: str | None
    expires_after: ExpiresAfter | None


def _has_room(request: Request, caller: Caller, database: Db) -> None:
    """Check the quota before the body is received, by its declared length. The stored file is checked again."""
    declared = request.headers.get("content-length", "")
    announced = max(0, int(declared) - FORM_OVERHEAD_BYTES) if declared.isdigit() else 0
    with database.transaction() as session:
        quotas.check_stored_bytes(session, caller.project_id, announced, caller.limits.stored_bytes)


async def _file(request: Request, _room: Annotated[None, Depends(_has_room)]) -> AsyncIterator[FileForm]:
    async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
        sent = _part(form, "file", "the field `purpose` and ")
        purpose = form.get("purpose")
        _refuse_unknown(form, {"purpose", "file", *EXPIRY_FIELDS})
        purpose = purpose if isinstance(purpose, str) else None
        yield FileForm(sent.filename, sent.stream, purpose, _expires_after(form))


UploadedFile = Annotated[FileForm, Depends(_file)]


@asynccontextmanager
async def part_form(request: Request) -> AsyncIterator[FormPart]:
    """Yield the part `data` of a form, for uploads in parts. Raises `InvalidRequest`."""
    async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
        sent = _part(form, "data", "")
        _refuse_unknown(form, {"data"})
        yield sent


def _part(form: FormData, name: str, other_fields: str) -> FormPart:
    file = form.get(name)
    if not isinstance(file, UploadFile):
        raise InvalidRequest(
            f"The part `{name}` is missing. Send multipart/form-data with {other_fields}the part `{name}`, a file.",
            param=name,
        )
    return FormPart(file.filename or "upload", file.file)


def _refuse_unknown(form: FormData, accepted: set[str]) -> None:
    for name in form:
        if name not in accepted:
            raise InvalidRequest(
                f"The field '{name}' is unknown. Remove it. Known fields: {', '.join(sorted(accepted))}.", param=name
            )


def _expires_after(form: FormData) -> ExpiresAfter | None:
    """Return the field `expires_after`, which OpenAI's clients flatten with brackets."""
    sent = {key: form[name] for name, key in EXPIRY_FIELDS.items() if name in form}
    if not sent:
        return None
    try:
        return ExpiresAfter.model_validate(sent)
    except ValidationError as error:
        raise RequestValidationError(
            [{**item, "loc": ("form", "expires_after", *item["loc"])} for item in error.errors()]
        ) from error
