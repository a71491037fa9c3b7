"""Receives a multipart upload once its sender is known. Starlette spools it to disk: memory stays flat."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Final

from fastapi import Depends, Request
from starlette.datastructures import FormData, UploadFile

from app.api.ids import MAX_ID
from app.auth.bearer import Caller
from app.core.errors import InvalidRequest

CHUNK_BYTES: Final = 1 << 20
MAX_FIELDS: Final = 16

REQUEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {
                            "type": "string",
                            "maxLength": MAX_ID,
                            "description": "`fine-tune` for training and validation data.",
                        },
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "JSONL, one object a line.",
                        },
                    },
                }
            }
        },
    }
}
"""For OpenAPI, which cannot see a form that the handler reads by itself."""


@dataclass(frozen=True)
class Upload:
    """What was sent."""

    purpose: str | None
    filename: str
    stream: BinaryIO

    def chunks(self) -> Iterator[bytes]:
        """The content, a MiB at a time."""
        while chunk := self.stream.read(CHUNK_BYTES):
            yield chunk


async def _upload(request: Request, _caller: Caller) -> AsyncIterator[Upload]:
    # Depends on the caller: nobody without a key gets to send us a body.
    async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
        yield _read(form)


def _read(form: FormData) -> Upload:
    purpose, file = form.get("purpose"), form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidRequest(
            "The file is missing: send multipart/form-data with the field `purpose` and the part `file`.",
            param="file",
        )
    for name in form:
        if name not in ("purpose", "file"):
            raise InvalidRequest(
                f"The field '{name}' is not available; leave it out. Files stay until they are deleted.",
                param=name,
            )
    return Upload(purpose if isinstance(purpose, str) else None, file.filename or "upload", file.file)


Uploaded = Annotated[Upload, Depends(_upload)]
