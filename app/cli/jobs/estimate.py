"""`grouptune jobs estimate`: predicts time, memory and tokens of a job, and whether it fits on a worker."""

from collections.abc import Callable

import typer

from app.cli.connection import connect
from app.cli.jobs.data_files import with_stored_files
from app.cli.jobs.job_options import (
    Control,
    Demonstrations,
    Gpus,
    GraderOption,
    JobFile,
    Method,
    Model,
    Nodes,
    Settings,
    Suffix,
    TestFile,
    TrainingFile,
    ValidationFile,
    job_of,
)
from app.cli.ui.console import fail, write_json, write_table
from app.cli.ui.exits import ExitCode
from app.cli.ui.formatting import clock, human_bytes
from app.cli.ui.options import AsJson, StateDir
from app.client import Json


def estimate_job(
    file: JobFile = None,
    model: Model = None,
    method: Method = None,
    training_file: TrainingFile = None,
    validation_file: ValidationFile = None,
    test_file: TestFile = None,
    grader: GraderOption = None,
    control: Control = None,
    suffix: Suffix = None,
    gpus: Gpus = None,
    nodes: Nodes = None,
    demonstrations: Demonstrations = None,
    settings: Settings = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Estimate tokens, time and memory of a job. Exit with code 1 if it does not fit on a worker."""
    body = job_of(
        file,
        model=model,
        method=method,
        grader=grader,
        training_file=training_file,
        validation_file=validation_file,
        test_file=test_file,
        control=control,
        suffix=suffix,
        gpus=gpus,
        nodes=nodes,
        demonstrations=demonstrations,
        settings=settings,
    )
    with connect(state_dir) as client:
        estimate = client.post("/fine_tuning/estimate", with_stored_files(client, body))
    if as_json:
        write_json(estimate)
    else:
        _show(estimate)
    if estimate["verdict"] == "does_not_fit":
        fail(estimate["reason"])
        raise typer.Exit(ExitCode.error)


def estimated_cost(job: Json) -> str | None:
    """Format the estimated time and memory of a job, for `jobs show`."""
    estimate = job["estimate"]
    if estimate is None or estimate["seconds"] is None:
        return None
    memory = human_bytes(estimate["peak_memory_bytes"]["expected"])
    return f"{_range(estimate['seconds'], clock)}, {memory} on {estimate['device']}"


def measured_cost(job: Json) -> str | None:
    """Format the time that workers ran an ended job, its memory and the error of its estimate, for `jobs show`."""
    seconds, measured, estimate = job["progress"]["run_seconds"], job["measured"], job["estimate"]
    if job["finished_at"] is None or seconds is None:
        return None
    memory = measured and measured["peak_memory_bytes"]
    cost = clock(seconds) + ("" if memory is None else f", {human_bytes(memory)}")
    if measured is None or estimate is None or estimate["seconds"] is None:
        return cost
    expected = estimate["seconds"]
    error = seconds / expected["expected"] - 1
    place = "within" if expected["low"] <= seconds <= expected["high"] else "outside"
    return f"{cost}: {abs(error):.0%} {'longer' if error > 0 else 'shorter'} than expected, {place} the range"


def _show(estimate: Json) -> None:
    tokens, parts, basis = estimate["tokens"], estimate["parts"] or {}, estimate["based_on"]
    jobs = f"finished jobs on this device: {basis['same_jobs']} with this model, {basis['device_jobs']} with others"
    share = basis.get("passing_share")  # servers of earlier versions send none
    rows = [
        ("device", estimate["device"]),
        ("time", _range(estimate["seconds"], clock)),
        ("control before it", _of_control(estimate)),
        *((f"  {part}", clock(seconds)) for part, seconds in parts.items()),
        ("peak memory", _range(estimate["peak_memory_bytes"], human_bytes)),
        ("steps", f"{estimate['steps']:,}"),
        ("prompt tokens", _range(tokens["prompt"], _whole)),
        ("response tokens", _range(tokens["response"], _whole)),
        ("trained tokens", _range(tokens["trained"], _whole)),
        ("rollouts", f"{estimate['rollouts']:,}"),
        ("grader calls", f"{estimate['grader_calls']:,}"),
        ("demonstrations", None if share is None else f"{share:.0%} pass the grader"),
        ("teacher requests", f"{estimate['teacher_requests']:,}"),
        ("based on", jobs),
        ("verdict", f"{estimate['verdict'].replace('_', ' ')}. {estimate['reason']}"),
    ]
    write_table(("quantity", "estimate"), [row for row in rows if row[1] is not None], empty="")


def _of_control(estimate: Json) -> str | None:
    """Format the method and the time of the control, which come on top of the job's."""
    control = estimate.get("control")  # servers of earlier versions send none
    if control is None:
        return None
    return ": ".join(filter(None, (control["method"], _range(control["seconds"], clock))))


def _range(value: Json | None, form: Callable[[float], str]) -> str | None:
    """Format an estimate, with its range unless that is a single number: `4:07 (3:00 to 6:10)`."""
    if value is None:
        return None
    low, expected, high = (form(value[name]) for name in ("low", "expected", "high"))
    return expected if low == high else f"{expected} ({low} to {high})"


def _whole(value: float) -> str:
    return f"{value:,.0f}"
