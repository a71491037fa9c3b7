"""`grouptune models`: what can be trained, fetching base models onto this machine, and merging adapters into them."""

import re
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from app.cli import configuration
from app.cli.connection import StateDir, connect
from app.cli.ui.console import Progress, Steps, note, write_json, write_line, write_table
from app.cli.worker_module import ModuleFailed, run_module
from app.client import path_segment
from app.core.errors import GrouptuneError
from app.core.models import registry

app = typer.Typer(help="Base models and fine-tuned models.", no_args_is_help=True)
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]+")
"""What a directory named like a model leaves out."""


class PullFailed(GrouptuneError):
    """The base model could not be fetched."""

    code = "pull_failed"


class DownloadFailed(GrouptuneError):
    """The fine-tuned model could not be downloaded."""

    code = "download_failed"


class MergeFailed(GrouptuneError):
    """The fine-tuned model could not be merged into its base."""

    code = "merge_failed"


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
        directory = pull(name, models_dir or configuration.load().models_dir, tell)
    write_line(str(directory))


@app.command("download")
def download_model(
    name: Annotated[str, typer.Argument(help="A fine-tuned model or a checkpoint from `grouptune models list`.")],
    target: Annotated[
        Path | None, typer.Argument(help="New directory; named like the model if absent.", metavar="[TARGET_DIR]")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Download a fine-tuned model: its PEFT adapter, config and model card; prints their directory."""
    target = target or Path(_FORBIDDEN.sub("-", name).strip("-."))
    if target.exists():
        raise DownloadFailed(f"{target} exists already: name a new directory.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".grouptune-", dir=target.parent) as temporary, Steps() as tell:
        adapter = Path(temporary) / "adapter"
        _fetch_adapter(name, adapter, state_dir, tell)
        adapter.rename(target)  # there whole, or not at all
    write_line(str(target))


@app.command("merge")
def merge_model(
    name: Annotated[str, typer.Argument(help="A fine-tuned model's name from `grouptune models list`.")],
    target: Annotated[Path, typer.Argument(help="New directory for the merged model.", metavar="TARGET_DIR")],
    models_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Cache of base models.", file_okay=False)
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Merge a fine-tuned model into its base: a plain directory for transformers, vLLM or llama.cpp's converter."""
    if target.exists():  # said before anything is fetched
        raise MergeFailed(f"{target} exists already: name a new directory.")
    with tempfile.TemporaryDirectory(prefix="grouptune-") as temporary, Steps() as tell:
        adapter = Path(temporary) / "adapter"
        base_name = _fetch_adapter(name, adapter, state_dir, tell)
        base = pull(base_name, models_dir or configuration.load().models_dir, tell)
        words = ["worker.training.merge", str(adapter), str(base), str(target), "--name", name]
        try:
            findings = run_module(words, tell)
        except ModuleFailed as error:
            raise MergeFailed(f"{name} was not merged: {error}") from None
    for line in findings.splitlines():
        note(line)
    write_line(str(target))


def _fetch_adapter(name: str, directory: Path, state_dir: Path | None, progress: Progress) -> str:
    """Unpacks the adapter of a fine-tuned model into `directory`; returns its base model's name."""
    archive = directory.with_suffix(".tar")
    with connect(state_dir) as client:
        path = f"/models/{path_segment(name)}"
        base: str | None = client.get(path).get("base_model")
        if base is None:
            raise DownloadFailed(f"{name} is a base model: it has no adapter.")
        progress(f"Downloading {name}")
        client.download(f"{path}/download", archive)
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    return base


def pull(name: str, models_dir: Path, progress: Progress) -> Path:
    """Directory of a base model, fetched if need be.

    Raises `InvalidRequest` for an unknown name, `PullFailed` with the end of the output when that fails.
    """
    model = registry.resolve(name, models_dir)
    if model.is_pulled:
        return model.directory
    progress(f"Fetching {model.name}")
    try:
        run_module(["worker.base_models", "pull", model.name, "--models-dir", str(models_dir)], progress)
    except ModuleFailed as error:
        raise PullFailed(f"{model.name} could not be fetched: {error}") from None
    return model.directory
