"""`grouptune jobs`: shows jobs, their events, metrics and groups. The other commands have modules of their own."""

from typing import Annotated, Final

import typer

from app.cli.connection import connect
from app.cli.jobs import held_out
from app.cli.jobs.changes import cancel, delete, pause, resume
from app.cli.jobs.compare import compare
from app.cli.jobs.create import create
from app.cli.jobs.edit import edit
from app.cli.jobs.estimate import estimate_job, estimated_cost, measured_cost
from app.cli.jobs.history import attempts, checkpoints
from app.cli.jobs.job_ids import find_job
from app.cli.jobs.listing import list_jobs, name_of, steps
from app.cli.jobs.live_panel import event_line
from app.cli.jobs.logs import show_logs
from app.cli.jobs.open import open_job
from app.cli.jobs.regrade import regrade_job
from app.cli.jobs.rows import LABELS, demonstrations, row_use
from app.cli.jobs.validate import validate_job
from app.cli.jobs.wait import wait_for_job
from app.cli.ui.console import note, write_json, write_line, write_table
from app.cli.ui.formatting import moment, number, one_line
from app.cli.ui.options import AsJson, JobId, StateDir
from app.client import Json
from app.core.plurals import plural

app = typer.Typer(help="Create, follow and control fine-tuning jobs.", no_args_is_help=True)

SHOWN_METRICS: Final = (
    "loss",
    "reward",
    "gft/expert/reward",
    "gft/teacher/reward",
    "gft/self/reward",
    "eval/accuracy",
    "rewards/margins",
    "rewards/accuracies",
    "eval/rewards/accuracies",
)
MAX_POINTS: Final = 5000
TEXT_COLUMNS: Final = 100


def show(job_id: JobId, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Show one job."""
    with connect(state_dir) as client:
        job = client.get(f"/fine_tuning/jobs/{find_job(client, job_id)}")
    if as_json:
        write_json(job)
        return
    error = job["error"] or {}
    rows = [
        ("id", job["id"]),
        ("name", name_of(job)),
        ("status", held_out.status(job)),
        ("step", steps(job)),
        ("method", job["method"]["type"]),
        ("model", job["model"]),
        ("fine-tuned model", job["fine_tuned_model"]),
        ("training file", job["training_file"]),
        ("validation file", job["validation_file"]),
        ("test file", job.get("test_file")),
        *((label, row_use(job, name)) for name, label in LABELS.items()),
        ("demonstrations", demonstrations(job)),
        ("path", _path(job)),
        ("created", moment(job["created_at"])),
        ("finished", moment(job["finished_at"]) if job["finished_at"] else None),
        ("estimated", estimated_cost(job)),
        ("took", measured_cost(job)),
        ("control", held_out.control(job)),
        ("control of", job.get("control_of")),
        ("verdict", held_out.reason(job)),
        ("held-out accuracy", held_out.before_and_after(job, "eval/accuracy")),
        ("held-out reward", held_out.before_and_after(job, "eval/reward")),
        ("held-out pairs won", held_out.before_and_after(job, "eval/rewards/accuracies")),
        ("held-out loss", held_out.before_and_after(job, "eval/loss")),
        *(
            (f"gate {'passed' if gate['passed'] else 'failed'}" if gate["reason"] else "gate", gate["gate"])
            for gate in job["gates"]
        ),
        ("alias", job["alias"]),
        ("resources", _resources(job)),
        *((key, value) for key, value in (job["metadata"] or {}).items() if key != "name"),
        ("error", error.get("message")),
    ]
    write_table(("field", "value"), [row for row in rows if row[1] is not None], empty="")


def events(
    job_id: JobId,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of events, counted from the latest.")] = 50,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the events of a job, the latest last."""
    with connect(state_dir) as client:
        job_id = find_job(client, job_id)
        latest_first = list(client.pages(f"/fine_tuning/jobs/{job_id}/events", limit=limit))
    if as_json:
        write_json(latest_first[::-1])
        return
    for event in reversed(latest_first):
        write_line(event_line(event))


def show_metrics(
    job_id: JobId,
    names: Annotated[
        str | None, typer.Option(help="Comma-separated metric names. `jobs metrics --json` lists all.")
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the metrics of every step."""
    requested = [name.strip() for name in names.split(",")] if names else []
    with connect(state_dir) as client:
        job_id = find_job(client, job_id)
        query: dict[str, str | int] = {"points": MAX_POINTS} | ({"names": ",".join(requested)} if requested else {})
        metrics = client.get(f"/fine_tuning/jobs/{job_id}/metrics", **query)
    if metrics["is_sampled"]:
        note(
            f"Showing {plural(len(metrics['steps']), 'step')}, including the extremes of --names. "
            f"GET /v1/fine_tuning/jobs/{job_id}/metrics?format=csv returns all of them."
        )
    if as_json:
        write_json(metrics)
        return
    columns = [name for name in requested or SHOWN_METRICS if name in metrics["series"]]
    series = [metrics["series"][name] for name in columns]
    rows = [(step, *(number(values[index]) for values in series)) for index, step in enumerate(metrics["steps"])]
    write_table(("step", *(name.removeprefix("gft/") for name in columns)), rows, empty="No steps yet.")


def groups(
    job_id: JobId,
    step: Annotated[int | None, typer.Option(min=0, help="Step to show. Default: the latest.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of groups.")] = 3,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the groups of one step. Prints each answer with its source, reward and advantage."""
    with connect(state_dir) as client:
        job_id = find_job(client, job_id)
        page = client.get(f"/fine_tuning/jobs/{job_id}/groups", **({} if step is None else {"step": step}))
    if as_json:
        write_json(page)
        return
    for group in page["data"][:limit]:
        note(f"\nStep {page['step']}, row {group['row']}: {_shorten(group['prompt'])}")
        rows = [
            (_source(member), number(member["reward"]), number(member["advantage"]), _shorten(member["text"]))
            for member in group["members"]
        ]
        write_table(("source", "reward", "advantage", "response"), rows, empty="")
    if not page["data"]:
        note("No groups yet." if step is None else f"Step {step} has no groups.")


def _source(member: Json) -> str:
    turn = member.get("turn")  # absent in groups that older versions stored
    return str(member["source"]) if turn is None else f"{member['source']}, turn {turn}"


def _path(job: Json) -> str | None:
    """Format the path, why it is not `fast`, and what the adapter covers; None until the model is loaded."""
    path = job["training_path"]
    if path is None:
        return None
    total, experts = path.get("lora_coverage"), path.get("expert_lora_coverage")
    covered = None if total is None else f"adapter on {total:.0%} of the weights"
    covered = covered if experts is None else f"{covered}, {experts:.0%} of the experts'"
    return "; ".join(filter(None, (": ".join(filter(None, (path["name"], path["reason"]))), covered)))


def _resources(job: Json) -> str | None:
    """Format the resources that the job requests, and why it waits for them; None if any worker takes it."""
    gpus, nodes = job["resources"]["gpus"], job["resources"]["nodes"]
    parts = [] if nodes == 1 else [plural(nodes, "worker")]
    parts += [] if gpus == "auto" else [plural(gpus, "GPU") + " each" * (nodes > 1)]
    return "; ".join(filter(None, (", ".join(parts), job["waiting_for"]))) or None


def _shorten(text: str) -> str:
    flat = one_line(text)
    return flat if len(flat) <= TEXT_COLUMNS else f"{flat[: TEXT_COLUMNS - 3]}..."


# In the order of `grouptune jobs --help`: first what most users need.
app.command()(create)
app.command("list")(list_jobs)
app.command()(show)
app.command("wait")(wait_for_job)
app.command("logs")(show_logs)
app.command("open")(open_job)
app.command()(events)
app.command("metrics")(show_metrics)
app.command()(groups)
app.command()(compare)
app.command("validate")(validate_job)
app.command("estimate")(estimate_job)
app.command()(pause)
app.command()(resume)
app.command()(cancel)
app.command()(edit)
app.command()(delete)
app.command()(checkpoints)
app.command()(attempts)
app.command("regrade")(regrade_job)
