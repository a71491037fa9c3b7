"""`grouptune models`: lists models, downloads base models and adapters, merges adapters, and orders exports."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect, load_settings
from app.cli.machine import require_packages
from app.cli.models.download import DownloadFailed, default_directory, download_adapter
from app.cli.models.exports import cancel_export, delete_export, export_model, list_exports, push_model
from app.cli.several import delete_each
from app.cli.ui.confirmation import Yes
from app.cli.ui.console import ReportProgress, StatusLine, note, write_json, write_line, write_table
from app.cli.ui.formatting import human_bytes
from app.cli.ui.options import AsJson, StateDir
from app.cli.worker_module import ModuleFailed, run_module
from app.client import Client, Json, path_segment
from app.core.errors import GrouptuneError
from app.core.models import sources

app = typer.Typer(help="Manage base models and fine-tuned models.", no_args_is_help=True)


class PullFailed(GrouptuneError):
    """The base model could not be downloaded."""

    code = "pull_failed"


class MergeFailed(GrouptuneError):
    """The fine-tuned model could not be merged into its base model."""

    code = "merge_failed"


@app.command("list")
def list_models(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List models, and base models that can be pulled."""
    with connect(state_dir) as client:
        models = client.get("/models")["data"]
        bases = client.get("/base_models")["data"]
    if as_json:
        write_json(models)
        return
    rows: list[tuple[object, ...]] = [
        (base["id"], "base", _state(base), _size(base), base["licence"], base["context_length"]) for base in bases
    ]
    rows += [(model["id"], "fine-tuned", "ready", "", "", "") for model in models if model.get("base_model")]
    write_table(("model", "kind", "state", "size", "licence", "context"), rows, empty="No models.")
    if not all(base["is_pulled"] for base in bases):
        note("Download one with: grouptune models pull MODEL")


def _size(base: Json) -> str:
    return "" if base["bytes"] is None else human_bytes(base["bytes"])


def _state(base: Json) -> str:
    pull = base["pull"]
    if base["is_pulled"] or pull is None or pull["status"] not in ("queued", "running"):
        return "ready" if base["is_pulled"] else "not pulled"
    share = f" {pull['done_bytes'] / pull['total_bytes']:.0%}" if pull["done_bytes"] and pull["total_bytes"] else ""
    return f"downloading{share}"


@app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="Name from `grouptune models list`, or OWNER/NAME of the hub.")],
    models_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the base models.", file_okay=False)
    ] = None,
) -> None:
    """Download a base model and print its directory."""
    with StatusLine() as progress:
        directory = pull(name, models_dir or load_settings().models_dir, progress)
    write_line(str(directory))


@app.command("download")
def download_model(
    name: Annotated[str, typer.Argument(help="Fine-tuned model or checkpoint from `grouptune models list`.")],
    target: Annotated[
        Path | None, typer.Argument(help="New directory. Default: named after the model.", metavar="[TARGET_DIR]")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Download a fine-tuned model. Prints the directory with its PEFT adapter, config and model card."""
    target = target or default_directory(name)
    with connect(state_dir) as client, StatusLine() as progress:
        _base_of(client, name)
        download_adapter(client, f"/models/{path_segment(name)}/download", name, target, progress)
    write_line(str(target))


@app.command("delete")
def delete_models(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Fine-tuned models or checkpoints.")],
    yes: Yes = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete fine-tuned models or checkpoints that nothing uses."""
    with connect(state_dir) as client:
        delete_each(client, "/models", names, "model", label="base_model", is_confirmed=yes, as_json=as_json)


@app.command("merge")
def merge_model(
    name: Annotated[str, typer.Argument(help="Fine-tuned model from `grouptune models list`.")],
    target: Annotated[Path, typer.Argument(help="New directory for the merged model.", metavar="TARGET_DIR")],
    models_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the base models.", file_okay=False)
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Merge a fine-tuned model into its base. The result works with transformers, vLLM and llama.cpp's converter."""
    require_packages("worker", "Merging a model")
    if target.exists():  # checked before the downloads
        raise MergeFailed(f"{target} exists already. Name a new directory.")
    with tempfile.TemporaryDirectory(prefix="grouptune-") as temporary, StatusLine() as progress:
        adapter = Path(temporary) / "adapter"
        with connect(state_dir) as client:
            base_name = _base_of(client, name)
            download_adapter(client, f"/models/{path_segment(name)}/download", name, adapter, progress)
        base = pull(base_name, models_dir or load_settings().models_dir, progress)
        words = ["worker.training.merge", str(adapter), str(base), str(target), "--name", name]
        try:
            findings = run_module(words, progress)
        except ModuleFailed as error:
            raise MergeFailed(f"{name} could not be merged: {error}") from None
    for line in findings.splitlines():
        note(line)
    write_line(str(target))


def _base_of(client: Client, name: str) -> str:
    base: str | None = client.get(f"/models/{path_segment(name)}").get("base_model")
    if base is None:
        raise DownloadFailed(f"{name} is a base model, so it has no adapter.")
    return base


def pull(name: str, models_dir: Path, progress: ReportProgress) -> Path:
    """Return the directory of a base model, downloaded if necessary.

    Raises `InvalidRequest` for an unknown name, `PullFailed` with the end of the output if the download fails.
    """
    model = sources.to_pull(name, models_dir)
    if model.is_pulled:
        return model.directory
    require_packages("worker", "Downloading a base model")
    progress(f"Downloading {model.name}")
    try:
        run_module(["worker.base_models", "pull", name, "--models-dir", str(models_dir)], progress)
    except ModuleFailed as error:
        raise PullFailed(f"{model.name} could not be downloaded: {error}") from None
    return model.directory


app.command("export")(export_model)
app.command("exports")(list_exports)
app.command("cancel-export")(cancel_export)
app.command("delete-export")(delete_export)
app.command("push")(push_model)
