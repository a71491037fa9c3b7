"""Stores the local data files of a job on the server: checks the job first, and uploads no content twice."""

from pathlib import Path
from typing import Final

from app.cli.files.upload import annotate_rows, send, stored_copy
from app.cli.jobs.job_file import local_files
from app.cli.jobs.watcher import wait_for_file
from app.cli.ui.console import note
from app.cli.ui.hints import suggest
from app.client import Client, Json
from app.core.errors import GrouptuneError, InvalidRequest

VALIDATION_SECONDS: Final = 60.0
NOT_UPLOADED: Final = "file-not-uploaded"
"""Id of a file in the request that checks a job before its files are uploaded; no file has it."""


class InvalidDataFile(GrouptuneError):
    """A data file of the job has validation errors."""

    code = "invalid_file"


class RefusedJob(InvalidRequest):
    """The server would refuse the job. `validation` is its answer."""

    def __init__(self, validation: Json) -> None:
        """`validation` has at least one error; the first one is the message."""
        first = validation["errors"][0]
        super().__init__(first["message"], param=first["param"], code=first["code"])
        self.validation = validation


def with_stored_files(
    client: Client, body: Json, timeout: float | None = None, idempotency_key: str | None = None
) -> Json:
    """Return the body with the ids of its local files, which are uploaded unless the server has the same content.

    Before an upload the server checks the rest of the job. Raises `RefusedJob`, and `InvalidDataFile` for a file with
    errors.
    """
    paths = local_files(body, Path())
    stored = {path: stored_copy(client, path) for path in dict.fromkeys(paths.values())}
    known = {name: file["id"] for name, path in paths.items() if (file := stored[path]) is not None}
    missing = dict.fromkeys(paths.keys() - known.keys(), NOT_UPLOADED)
    if missing:
        _check(client, body | known | missing, missing)
    ids = {path: _valid_id(client, path, file, timeout, idempotency_key) for path, file in stored.items()}
    return body | {name: ids[path] for name, path in paths.items()}


def _check(client: Client, body: Json, missing: Json) -> None:
    """Raise `RefusedJob` if the job has another problem than that its files are not uploaded yet."""
    validation = client.post("/fine_tuning/jobs/validate", body)
    errors = [
        problem
        for problem in validation["errors"]
        if not (problem["code"] == "file_not_found" and problem["param"] in missing)
    ]
    if errors:
        raise RefusedJob(validation | {"errors": errors})


def _valid_id(client: Client, path: Path, file: Json | None, timeout: float | None, idempotency_key: str | None) -> str:
    """Return the id of a file after its validation, for which it waits at most `VALIDATION_SECONDS`.

    Without the wait, a race would decide whether an invalid file makes the request fail or the job fail later.
    """
    if file is None:
        file = send(client, path, idempotency_key=idempotency_key)
    else:
        note(f"{path.name} is already uploaded as {file['id']}.")
    file = wait_for_file(client, file["id"], timeout_seconds=min(VALIDATION_SECONDS, timeout or VALIDATION_SECONDS))
    annotate_rows(client, file["id"], path)
    if file["status"] == "error":
        command = suggest(f"files report {file['id']}")
        raise InvalidDataFile(f"{path}: {file['status_details']}\nList all errors with: {command}")
    return str(file["id"])
