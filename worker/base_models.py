"""`python -m worker.base_models pull NAME`: downloads a base model into the cache, as bf16 safetensors.

Prints progress to standard error and the model's directory to standard output; with `--json`, progress and the error
as JSON lines to standard output.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from app.core import settings
from app.core.errors import GrouptuneError
from app.core.models import sources
from app.core.models.hub_source import hub_source
from app.core.models.sources import Progress, Report
from app.core.spec.subprocess_environment import PARENT_PID
from worker import parent_death

SHARES: Final = 10
"""A plain download prints its progress so often."""


def pull(name: str, models_dir: Path, report: Report) -> Path:
    """Return the directory of the base model `name`; download and convert the model unless it is in the cache.

    A lock serialises concurrent pulls. The finished directory is renamed into place, so that it is either complete
    or absent. Raises `InvalidRequest` for an unknown name, `ModelUnavailable` when every source fails.
    """
    model = sources.to_pull(name, models_dir)
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(models_dir / f".{model.name}.lock"):
        if model.is_pulled or model.entry is None:
            return model.directory
        draft = _draft(model.name, models_dir)
        shutil.rmtree(draft, ignore_errors=True)  # left behind by a killed process
        draft.mkdir()
        try:
            fetched = sources.fetch(model.entry, draft, report)
            converted = draft / "converted"
            report(Progress(f"Converting {model.name} to bf16 safetensors"))
            command = [sys.executable, "-m", "worker.training.convert", str(fetched), str(converted)]
            subprocess.run(command, check=True, stdout=2)  # standard output is for the results of this process
            if source := hub_source(fetched):
                source.write(converted)
            converted.rename(model.directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    report(Progress(f"{model.name} is ready"))
    return model.directory


def remove_draft(name: str, models_dir: Path) -> None:
    """Remove the incomplete files of a killed download, unless another process downloads the model."""
    try:
        with FileLock(models_dir / f".{name}.lock", timeout=0):
            shutil.rmtree(_draft(name, models_dir), ignore_errors=True)
    except (OSError, Timeout):  # Timeout: the model is being downloaded
        return


def _draft(name: str, models_dir: Path) -> Path:
    return models_dir / f".{name}.draft"


class _Lines:
    """Prints progress for people: each stage, and the bytes at every tenth of a download."""

    def __init__(self) -> None:
        self._printed: tuple[str, int] | None = None

    def __call__(self, progress: Progress) -> None:
        done, total = progress.done_bytes, progress.total_bytes
        share = min(SHARES, SHARES * done // total) if done and total else 0
        if self._printed != (progress.stage, share):
            self._printed = (progress.stage, share)
            size = f": {min(done or 0, total) / 1e6:,.0f} of {total / 1e6:,.0f} MB" if total else ""
            print(progress.stage + size, file=sys.stderr, flush=True)  # noqa: T201 - a program's output


def _print_json(progress: Progress) -> None:
    print(json.dumps(asdict(progress)), flush=True)  # noqa: T201 - a program's output


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.base_models", description=__doc__)
    parser.add_argument("command", choices=["pull"])
    parser.add_argument("name")
    parser.add_argument("--models-dir", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if parent := os.environ.get(PARENT_PID):  # started by a job's runner
        parent_death.die_with(int(parent))
    models_dir = arguments.models_dir or settings.load().models_dir
    try:
        directory = pull(arguments.name, models_dir, _print_json if arguments.json else _Lines())
    except GrouptuneError as error:
        if arguments.json:
            print(json.dumps({"error": error.message}), flush=True)  # noqa: T201 - a program's output
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201 - a program's output
        return 1
    if not arguments.json:
        print(directory)  # noqa: T201 - a program's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
