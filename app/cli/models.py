"""`grouptune models`: what can be trained, and fetching base models onto this machine."""

import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.connection import StateDir, connect
from app.cli.console import Progress, Steps, note, write_json, write_line, write_table
from app.core import settings
from app.core.errors import GrouptuneError
from app.core.models import registry

KEPT_LINES: Final = 20
STOP_SECONDS: Final = 5.0

app = typer.Typer(help="Base models and fine-tuned models.", no_args_is_help=True)


class PullFailed(GrouptuneError):
    """The base model could not be fetched."""

    code = "pull_failed"


@app.command("list")
def list_models(
    state_dir: StateDir = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the server's models and the base models that can be pulled."""
    with connect(state_dir) as client:
        models = client.get("/models")["data"]
    if as_json:
        write_json(models)
        return
    there = {model["id"] for model in models}
    rows = [(model["id"], "fine-tuned" if model.get("base_model") else "base", "ready") for model in models]
    absent = [name for name in registry.CATALOG if name not in there]
    rows += [(name, "base", "not pulled") for name in absent]
    write_table(("model", "kind", "state"), rows, empty="No models.")
    if absent:
        note("Fetch one with: grouptune models pull MODEL")


@app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="Name from `grouptune models list`, such as qwen3-0.6b.")],
    models_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Cache of base models.", file_okay=False)
    ] = None,
) -> None:
    """Fetch a base model onto this machine; prints its directory."""
    with Steps() as tell:
        directory = pull(name, models_dir or settings.load().models_dir, tell)
    write_line(str(directory))


def pull(name: str, models_dir: Path, progress: Progress) -> Path:
    """Directory of a base model, fetched if need be.

    Raises `InvalidRequest` for an unknown name, `PullFailed` with the end of the output when that fails.
    """
    model = registry.resolve(name, models_dir)
    if model.is_pulled:
        return model.directory
    progress(f"Fetching {model.name}")
    # A process of its own: fetching needs torch, which the command line does not load.
    argv = [sys.executable, "-m", "worker.base_models", "pull", model.name, "--models-dir", str(models_dir)]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    try:
        kept: deque[str] = deque(maxlen=KEPT_LINES)
        for line in process.stdout or ():
            kept.append(line.rstrip())
            progress(kept[-1])
        code = process.wait()
    except BaseException:
        _stop(process)
        raise
    if code != 0:
        reason = "\n".join(kept).removeprefix("error: ") or f"it ended with code {code}"
        raise PullFailed(f"{model.name} could not be fetched: {reason}")
    return model.directory


def _stop(process: "subprocess.Popen[str]") -> None:
    """Ends the process and whatever it started (pip)."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
