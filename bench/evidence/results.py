"""The file of results, written after each run: a stopped benchmark continues with the next one."""

import json
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.evidence.api import EvidenceError
from bench.evidence.runs import VERSION, Run

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "bench" / "results" / "evidence.json"
PACKAGES: Final = ("torch", "transformers", "openai")

Result = dict[str, Any]
_AND: Final = " and "


@dataclass
class Results:
    """All stored runs of one version of the benchmark, by key."""

    path: Path
    about: dict[str, Any] = field(default_factory=dict)
    """Model, hardware and versions."""
    runs: dict[str, Result] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read the file; without one nothing is stored yet. Raises `EvidenceError` for results of another version."""
        if not path.is_file():
            return cls(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["about"]["version"] != VERSION:
            raise EvidenceError(
                f"{path} has results of version {content['about']['version']}, which cannot be compared with those of "
                f"version {VERSION}. Delete it to run the matrix again."
            )
        return cls(path, content["about"], {run["key"]: run for run in content["runs"]})

    def of(self, run: Run) -> Result | None:
        """Return the result of a run, if it is stored."""
        return self.runs.get(run.key)

    def add(self, result: Result, about: dict[str, Any]) -> None:
        """Store a result at once; a crash while writing leaves the old file. All machines of the runs are named."""
        machines = [*filter(None, self.about.get("hardware", "").split(_AND)), about["hardware"]]
        self.about = about | {"hardware": _AND.join(dict.fromkeys(machines))}
        self.runs[result["key"]] = result
        temporary = self.path.with_suffix(".new")
        temporary.write_text(self.text(), encoding="utf-8")
        temporary.replace(self.path)

    def text(self) -> str:
        """Return the file's content: JSON with a line for each run, so that a diff shows the new ones."""
        lines = ",\n".join(json.dumps(run) for run in self.runs.values())
        return f'{{"about": {json.dumps(self.about)},\n"runs": [\n{lines}\n]}}\n'

    def check_model(self, model: str) -> None:
        """Raise `EvidenceError` if the stored runs trained another model."""
        if self.runs and self.about["model"] != model:
            raise EvidenceError(
                f"{self.path} has results of {self.about['model']}, not of {model}. Name another file with --results."
            )

    def select(self, **wanted: object) -> list[Result]:
        """Return the runs whose fields have these values."""
        return [run for run in self.runs.values() if all(run[name] == value for name, value in wanted.items())]


def about(model: str, parameters: int, threads: int) -> dict[str, Any]:
    """Describe the model, the hardware and the versions."""
    return {
        "version": VERSION,
        "model": model,
        "parameters": parameters,
        "hardware": _processor(),
        "threads": threads,
        "versions": {"python": ".".join(map(str, sys.version_info[:3])), **{name: version(name) for name in PACKAGES}},
    }


def _processor() -> str:
    cpu: Iterable[str] = ()
    if (path := Path("/proc/cpuinfo")).is_file():
        cpu = (line.partition(": ")[2] for line in path.read_text().splitlines() if line.startswith("model name"))
    return f"{os.cpu_count()} x {next(iter(cpu), platform.machine())}"
