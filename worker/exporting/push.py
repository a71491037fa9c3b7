"""The format `push`: a repository on a Hugging Face hub with the adapter or the merged model, and a model card."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from app.core.plurals import plural
from app.core.spec.export import Check, ExportRefused, ExportSpec, Findings, PushedRepository, is_hub_token
from app.core.spec.subprocess_environment import HUB_TOKEN
from worker.exporting.card import card
from worker.exporting.merged import merged

_WEIGHTS: Final = ("adapter_config.json", "adapter_model.safetensors")
_LICENSE_SECONDS: Final = 10.0
_TEMPORARY: Final = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.TOO_MANY_REQUESTS,
)
"""A conflict is another commit to the repository at the same moment."""
_QUERY: Final = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\"]*")
_XML_FIELDS: Final = re.compile(r"<(?:Code|Message)>([^<]*)<")
_LONGEST_REASON: Final = 500


def push(spec: ExportSpec, directory: Path, progress: Callable[[str, float], None]) -> Findings:
    """Push the files in one commit; compare what the hub stores, by digest, with what was sent."""
    repository = spec.repository or ""
    token = os.environ[HUB_TOKEN]
    if not is_hub_token(token):
        raise ExportRefused(
            "hub_refused",
            "The token of the hub has a space, a line break or another character that no token has. Copy it again "
            "into `hub_token` or GROUPTUNE_HUB_TOKEN.",
        )
    api = HfApi(endpoint=spec.hub_url, token=token, library_name="grouptune")
    progress("Preparing the repository", 0.02)
    with _hub_errors(repository):
        api.create_repo(repository, private=spec.private, exist_ok=True)
        _check_visibility(repository, is_private=bool(api.model_info(repository).private), wanted=spec.private)
    findings = _stage(spec, directory, progress)
    text = card(spec, _license(api, spec), findings.notes if findings else ())
    (directory / "README.md").write_text(text, encoding="utf-8")
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    progress(f"Uploading to {repository}", 0.8)
    with _hub_errors(repository):
        operations = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
        commit = api.create_commit(repository, operations, commit_message=f"Upload {spec.model}").oid
        progress("Comparing the files of the repository", 0.95)
        stored = {
            entry.path: entry
            for entry in api.list_repo_tree(repository, recursive=True, revision=commit)
            if isinstance(entry, RepoFile)
        }
    if different := [name for name, path in files.items() if not _is_stored(path, stored.get(name))]:
        message = f"{different[0]} is missing in {repository} at {commit}, or has another digest. Push again."
        raise ExportRefused(
            "export_check_failed", f"{len(different)} of {plural(len(files), 'file')} differ: {message}"
        )
    check = Check(
        compared="digests of the files that the hub stores",
        probes=len(files),
        tokens=0,
        difference=0.0,
        tolerance=0.0,
        unit="files that differ",
    )
    pushed = PushedRepository(url=f"{spec.hub_url}/{repository}", commit=commit, private=spec.private)
    return Findings(
        check=findings.check if findings else check, repository=pushed, notes=findings.notes if findings else ()
    )


def _stage(spec: ExportSpec, directory: Path, progress: Callable[[str, float], None]) -> Findings | None:
    """Write the files to push, without the card; return what a merge has found."""
    if spec.merged:
        return merged(spec, directory, progress)
    for name in _WEIGHTS:
        shutil.copyfile(spec.adapter_dir / name, directory / name)
    return None


def _check_visibility(repository: str, *, is_private: bool, wanted: bool) -> None:
    if is_private == wanted:
        return
    now, fix = ("private", "true") if is_private else ("public", "false")
    raise ExportRefused(
        "hub_refused",
        f"The repository {repository} exists and is {now}. Send `private: {fix}`, change its visibility, or name "
        "another repository.",
    )


def _license(api: HfApi, spec: ExportSpec) -> str | None:
    """Return the license in the base model's card on the hub; None if it is not known."""
    if spec.base_hub_id is None:
        return None
    try:
        data = api.model_info(spec.base_hub_id, revision=spec.base_revision, timeout=_LICENSE_SECONDS).card_data
    # The card of the base model only decorates this one: a hub that does not show it is no reason to fail.
    except Exception:
        return None
    license = None if data is None else data.get("license")
    return license if isinstance(license, str) else None


def _is_stored(path: Path, stored: RepoFile | None) -> bool:
    if stored is None:
        return False
    if stored.lfs is not None:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == stored.lfs.sha256
    data = path.read_bytes()  # small: the hub stores large files with LFS
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == stored.blob_id


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Translate the errors of the hub's client."""
    try:
        yield
    except ExportRefused:
        raise
    # Its exceptions for a lost connection depend on the HTTP library that it uses.
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # of an upload
        raise _refusal(repository, cause) from error


def _refusal(repository: str, error: BaseException) -> ExportRefused:
    if isinstance(error, HfHubHTTPError):
        return _answered(repository, error.response.status_code, _reason(error))
    message = f"The push to {repository} failed: {_first_line(error)}"
    if isinstance(error, ValueError):  # the client or the hub found the card or a name malformed
        return ExportRefused("hub_refused", message)
    return ExportRefused("hub_unavailable", message, is_temporary=True)


def _answered(repository: str, status: int, reason: str) -> ExportRefused:
    message = f"The hub answered {status} to the push to {repository}: {reason.rstrip('.')}."
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TEMPORARY:
        return ExportRefused("hub_unavailable", message, is_temporary=True)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        message += " Check that the token may write to this repository."
    return ExportRefused("hub_refused", message)


def _reason(error: HfHubHTTPError) -> str:
    """Return what the server says, in one line. Stores of large files answer in XML, and sign their addresses."""
    said = error.server_message or ""
    if said.startswith("<"):
        said = ": ".join(_XML_FIELDS.findall(said))
    line = " ".join(said.split()) or _first_line(error)
    return _QUERY.sub(r"\1", line)[:_LONGEST_REASON]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
