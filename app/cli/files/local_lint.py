"""Lints a file on this machine. Imports the job spec and the graders, which no other command needs."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from app.cli.machine import require_packages
from app.client import Json
from app.core import settings
from app.core.errors import InvalidRequest
from app.core.files import parquet
from app.core.files.validation import validate_file
from app.core.jobs.grader_services import check_services
from app.core.spec.graders import Grader
from app.core.spec.job import GroupMix

MAX_ANSWERS: Final = 20_000
MAX_SECONDS: Final = 600.0


def lint_path(path: Path, body: Json) -> Json:
    """Lint a local file; returns what `POST /files/{id}/lint` would return. Raises `InvalidRequest`."""
    require_packages("graders", "Linting a file on this machine")
    from app.core.graders.registry import waits  # noqa: PLC0415 - an extra, and slow to import
    from app.core.graders.run import ExternalServices, GraderPool  # noqa: PLC0415
    from app.core.lint.run import Budget, lint_file  # noqa: PLC0415

    grader: Any = _valid(TypeAdapter(Grader), body["grader"], "grader")
    mix = _valid(TypeAdapter(GroupMix), body["group"], "group")
    if waits(grader) and not body["remote"]:
        raise InvalidRequest("This grader calls another server for each answer. Add --remote to allow that.")
    configuration = settings.load()
    check_services(grader, "grader", configuration.judge_url, configuration.private_hosts)
    key = configuration.judge_api_key
    outside = ExternalServices(
        judge_url=configuration.judge_url,
        judge_api_key=key.get_secret_value() if key else None,
        allowed_private_hosts=configuration.allowed_private_hosts,
    )
    with _as_jsonl(path) as rows, GraderPool(grader, outside) as pool:
        counts = validate_file(rows)
        if not counts.valid:
            raise InvalidRequest(f"{path}: {counts.summary()}", code="invalid_file")
        report = lint_file(rows, counts, pool, mix, Budget(MAX_ANSWERS, MAX_SECONDS))
    shown = report.model_dump(mode="json", by_alias=True)
    return {"summary": report.summary(), "offer": report.offer(), "report": shown}


@contextmanager
def _as_jsonl(path: Path) -> Iterator[Path]:
    """Yield the path itself, or for a Parquet file the path of a temporary JSONL copy."""
    if not parquet.is_parquet(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="grouptune-") as directory:
        rows = Path(directory) / "rows.jsonl"
        try:
            parquet.to_jsonl(path, rows, lambda _done, _total: None)
        except parquet.UnreadableParquet as error:
            raise InvalidRequest(f"{path}: {error}", code="invalid_file") from error
        yield rows


def _valid(adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        messages = (
            f"{'.'.join(map(str, (name, *detail['loc'])))}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()
        )
        raise InvalidRequest("; ".join(messages)) from None
