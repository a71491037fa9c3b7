"""`grouptune files lint`: what a file's answers would teach, on this machine for a path, on the server for an id."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError

from app.cli import github, job_body
from app.cli.connection import StateDir, connect
from app.cli.console import Steps, note, write_json, write_table
from app.cli.exits import ExitCode
from app.client import Json
from app.core import settings
from app.core.errors import GrouptuneError, InvalidRequest
from app.core.files import parquet
from app.core.files.validation import validate_file
from app.core.spec.graders import Grader
from app.core.spec.job import GroupMix

MOST_ANSWERS: Final = 20_000
MOST_SECONDS: Final = 600.0
_COUNT: Final = re.compile(r"(expert|teacher|self)=(\d{1,4})")


class GradersMissing(GrouptuneError):
    """Linting a path needs the graders: `pip install 'grouptune[graders]'`. Or upload the file and lint its id."""

    code = "graders_missing"


def lint(
    target: Annotated[str, typer.Argument(metavar="FILE", help="A path, linted on this machine, or a file's id.")],
    grader: Annotated[
        Path,
        typer.Option(
            "--grader",
            metavar="PATH",
            help="A grader, or a job with one, as JSON or YAML.",
            exists=True,
            dir_okay=False,
        ),
    ],
    group: Annotated[
        str | None,
        typer.Option(metavar="MIX", help="As `expert=1,teacher=3,self=4`; what is left out is the job's or default."),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Also ask judges and reward servers; each answer is a request.")
    ] = False,
    state_dir: StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Grade a file's expert and teacher answers. Exits with code 1 when an expert fails or no group could teach."""
    body = _body(grader, group) | {"remote": remote}
    path = Path(target)
    with Steps() as tell:
        tell("Grading the known answers")
        if path.is_file():
            found = _here(path, body)
        else:
            with connect(state_dir) as client:
                found = client.post(f"/files/{target}/lint", body)
    report = found["report"]
    if as_json:
        write_json(found)
    else:
        _show(found["summary"], report)
    if github.is_active() and path.is_file():
        github.annotate(path, report["errors"], report["warnings"])
    if report["error_count"] or report["signal_share_limit"] == 0:
        raise typer.Exit(ExitCode.error)


def _body(path: Path, group: str | None) -> Json:
    """Grader and group of the file, the latter as far as `group` does not say otherwise."""
    sent = job_body.read(path, what="grader, or job with one")
    grader: Json = sent
    mix: Json = {}
    if isinstance(method := sent.get("method"), dict):
        settings = (method.get(str(method.get("type"))) or {}) | (sent.get("gft") or {})
        grader, mix = settings.get("grader") or {}, settings.get("group") or {}
    if "type" not in grader:
        raise InvalidRequest(f"{path} holds no grader: write one, or a job whose method has one.", param="grader")
    return {"grader": grader, "group": mix | _mix(group)}


def _mix(group: str | None) -> dict[str, int]:
    found = {}
    for part in (group or "").replace(" ", "").split(",") if group else ():
        match = _COUNT.fullmatch(part)
        if match is None:
            raise typer.BadParameter(f"{part!r} is no count; write `expert=1,teacher=3,self=4`.", param_hint="--group")
        found[match[1]] = int(match[2])
    return found


def _here(path: Path, body: Json) -> Json:
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
        judge_url=str(configuration.judge_url) if configuration.judge_url else None,
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


def _show(summary: str, report: Json) -> None:
    note(f"{summary}.")
    counted = report["groups"]
    note(
        f"Groups by their known answers: {counted['contrast']:,} differ, {counted['same']:,} are all alike, "
        f"{counted['few']:,} have fewer than two."
    )
    found = [("error", one) for one in report["errors"]] + [("warning", one) for one in report["warnings"]]
    found.sort(key=lambda pair: pair[1]["line"])
    rows = [(one["line"], kind, one["param"], one["message"]) for kind, one in found]
    if rows:
        write_table(("line", "level", "field", "message"), rows, empty="")
    for kind in ("error", "warning"):
        hidden = report[f"{kind}_count"] - len(report[f"{kind}s"])
        if hidden > 0:
            note(f"... and {hidden:,} more {kind}{'s' * (hidden != 1)}.")
