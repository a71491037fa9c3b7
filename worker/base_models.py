"""`python -m worker.base_models pull NAME`: downloads a base model into the cache, as bf16 safetensors.

Prints progress to standard error and the model's directory to standard output.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from app.core import settings
from app.core.errors import GrouptuneError
from app.core.models import registry, sources
from app.core.models.hub_source import hub_source
from app.core.spec.subprocess_environment import PARENT_PID
from worker import parent_death


def pull(name: str, models_dir: Path, progress: Callable[[str], None]) -> Path:
    """Return the directory of the base model `name`; download and convert the model unless it is in the cache.

    A lock serialises concurrent pulls. The finished directory is renamed into place, so that it is either complete
    or absent. Raises `InvalidRequest` for an unknown name, `ModelUnavailable` when every source fails.
    """
    model = registry.resolve(name, models_dir)
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(models_dir / f".{model.name}.lock"):
        if model.is_pulled or model.entry is None:
            return model.directory
        draft = models_dir / f".{model.name}.draft"
        shutil.rmtree(draft, ignore_errors=True)  # left behind by a killed process
        draft.mkdir()
        try:
            fetched = sources.fetch(model.entry, draft, progress)
            converted = draft / "converted"
            progress(f"Converting {model.name} to bf16 safetensors")
            subprocess.run([sys.executable, "-m", "worker.training.convert", str(fetched), str(converted)], check=True)
            if source := hub_source(fetched):
                source.write(converted)
            converted.rename(model.directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    progress(f"{model.name} is ready")
    return model.directory


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.base_models", description=__doc__)
    parser.add_argument("command", choices=["pull"])
    parser.add_argument("name")
    parser.add_argument("--models-dir", type=Path, default=None)
    arguments = parser.parse_args()
    if parent := os.environ.get(PARENT_PID):  # started by a job's runner
        parent_death.die_with(int(parent))
    models_dir = arguments.models_dir or settings.load().models_dir
    try:
        directory = pull(arguments.name, models_dir, lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201 - a program's output
    except GrouptuneError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201 - a program's output
        return 1
    print(directory)  # noqa: T201 - a program's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
