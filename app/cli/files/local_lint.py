"""Lints a file on this machine, with the spec and the graders, which the other commands do without."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from app.client import Json
from app.core import settings
from app.core.errors import GrouptuneError, InvalidRequest
from app.core.files import parquet
from app.core.files.validation import validate_file
from app.core.spec.graders import Grader
from app.core.spec.job import GroupMix

MOST_ANSWERS: Final = 20_000
MOST_SECONDS: Final = 600.0


class GradersMissing(GrouptuneError):
    """Linting a path needs the graders: `pip install 'grouptune[graders]'`. Or upload the file and lint its id."""

    code = "graders_missing"


def lint_here(path: Path, body: Json) -> Json:
    """The same as the server's answer, made by this process."""
    try:
        from app.core.graders.registry import waits  # noqa: PLC0415 - an extra, and slow to import
        from app.core.graders.run import GraderPool, Outside  # noqa: PLC0415
        from app.core.lint.run import Budget, lint_file  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise GradersMissing from error
    grader: Any = _valid(TypeAdapter(Grader), body["grader"], "grader")
    mix = _valid(TypeAdapter(GroupMix), body["group"], "group")
    if waits(grader) and not body["remote"]:
        raise InvalidRequest("This grader asks another machine for each answer: add --remote if that is wanted.")
    configuration = settings.load()
    key = configuration.judge_api_key
    outside = Outside(
        judge_url=configuration.judge_url,
        judge_api_key=key.get_secret_value() if key else None,
        allowed_private_hosts=configuration.allowed_private_hosts,
    )
    with _as_jsonl(path) as rows, GraderPool(grader, outside) as pool:
        counts = validate_file(rows)
        if not counts.valid:
            raise InvalidRequest(f"{path}: {counts.summary()}", code="invalid_file")
        report = lint_file(rows, counts, pool, mix, Budget(MOST_ANSWERS, MOST_SECONDS))
    return {"summary": report.summary(), "report": report.model_dump(mode="json", by_alias=True)}


@contextmanager
def _as_jsonl(path: Path) -> Iterator[Path]:
    """The file, or the rows of a Parquet file as one."""
    if not parquet.is_parquet(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="grouptune-") as directory:
        rows = Path(directory) / "rows.jsonl"
        try:
            parquet.to_jsonl(path, rows, lambda _done, _total: None)
        except parquet.UnreadableParquet as error:
            raise InvalidRequest(f"{path}: {error}", code="invalid_file") from error
        except ModuleNotFoundError as error:
            raise InvalidRequest(f"{path}: Parquet is read with pyarrow: pip install 'grouptune[data]'.") from error
        yield rows


def _valid(adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        told = (
            f"{'.'.join(map(str, (name, *one['loc'])))}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise InvalidRequest("; ".join(told)) from None
