"""`grouptune jobs compare`: results of several jobs, and the settings in which they differ."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from app.cli.connection import connect
from app.cli.jobs import held_out
from app.cli.jobs.estimate import measured_cost
from app.cli.jobs.job_ids import SHORT, find_jobs
from app.cli.jobs.listing import name_of, steps
from app.cli.ui.console import note, write_json, write_table
from app.cli.ui.formatting import number
from app.cli.ui.options import AsJson, StateDir
from app.client import NOT_FOUND, ApiError, Client, Json

_FILES: Final = ("training_file", "validation_file", "test_file")


def compare(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB JOB...", help="Two or more jobs.")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare the results and settings of jobs. Shows only settings that differ."""
    with connect(state_dir) as client:
        jobs = [client.get(f"/fine_tuning/jobs/{job_id}") for job_id in find_jobs(client, job_ids)]
        if len(jobs) < 2:
            raise typer.BadParameter("Name at least two jobs.", param_hint="JOB")
        settings = _differences([_settings(client, job) for job in jobs])
    results = _results(jobs)
    if as_json:
        verdicts = [job.get("verdict") for job in jobs]
        write_json(
            {"jobs": [job["id"] for job in jobs], "verdicts": verdicts, "results": results, "settings": settings}
        )
        return
    columns = ("field", *(f"job {place}" for place in range(1, len(jobs) + 1)))  # an id is wrong in upper case
    about = [("id", *(job["id"][-SHORT:] for job in jobs))]
    about += [("name", *map(name_of, jobs)), ("status", *map(held_out.status, jobs)), ("step", *map(steps, jobs))]
    took = ("took", *map(measured_cost, jobs))
    measured = [
        (name, *(_shown(job, name, value) for job, value in zip(jobs, values, strict=True)))
        for name, values in results.items()
    ]
    write_table(columns, [*about, took, *measured, *((name, *values) for name, values in settings.items())], empty="")
    if not settings:
        note("The settings do not differ.")


def _shown(job: Json, name: str, value: float | None) -> str:
    """Format a result of a job; a held-out one with its interval."""
    return held_out.value(held_out.result(job, "after"), name) or number(value)


def _results(jobs: list[Json]) -> dict[str, list[float | None]]:
    """Return held-out results of the trained models, then metrics of the last steps, by name, a value for each job."""
    after = [((job["evaluation"] or {}).get("after") or {}).get("values", {}) for job in jobs]
    last = [job["progress"]["metrics"] for job in jobs]
    return {
        name: [values.get(name) for values in found]
        for found in (after, last)
        for name in dict.fromkeys(name for values in found for name in values)
    }


def _settings(client: Client, job: Json) -> dict[str, Any]:
    """Return the settings of a job by path, which does not contain the method: most methods share most settings.

    Equal files count as one setting, whatever their ids.
    """
    method = job["method"]["type"]
    kept = {name: job[name] for name in ("model", "seed", "gates", "alias", "chat_template_kwargs", "resources")}
    kept["control"] = (job.get("control") or {}).get("method")
    files = {name: _file(client, job.get(name)) for name in _FILES}
    return {"method": method} | dict(_flat(job["method"][method])) | dict(_flat(kept)) | files


def _file(client: Client, file_id: str | None) -> str | None:
    """Return the name of a file with the start of its digest, or its id if it is deleted."""
    if file_id is None:
        return None
    try:
        file = client.get(f"/files/{file_id}")
    except ApiError as error:
        if error.http_status != NOT_FOUND:
            raise
        return file_id
    return f"{file['sha256'][:SHORT]} {file['filename']}"


def _differences(settings: list[dict[str, Any]]) -> dict[str, list[Any]]:
    paths = dict.fromkeys(path for one in settings for path in one)
    table = {path: [one.get(path) for one in settings] for path in paths}
    return {
        path: values
        for path, values in table.items()
        if any(_content(path, v) != _content(path, values[0]) for v in values)
    }


def _content(path: str, value: Any) -> Any:
    """Return the part of a setting that counts: of a file its digest, not its name."""
    return value.split(" ")[0] if path in _FILES and value is not None else value


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else name)
    else:
        yield path, value
