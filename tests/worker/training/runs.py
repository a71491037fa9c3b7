"""Whole trainer runs over the tiny chat model: in this process, or as a subprocess like the runner's."""

import dataclasses
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from app.core.retry import RetryPolicy
from app.core.spec.graders import StringCheckGrader
from app.core.spec.job import (
    SETTINGS,
    Evaluation,
    JobSpec,
    Lora,
    MethodType,
    PreferenceMethod,
    Sampling,
    Settings,
    TrainerSpec,
)
from app.core.spec.reports import Evaluated, Message, Metrics, Report, TrainerExit, report_adapter
from tests.forked import Program
from tests.tiny_model import write_pairs, write_rows
from worker.training.setup import run

REPOSITORY: Final = Path(__file__).parents[3]
STEPS: Final = 8
"""Optimiser steps of a run as `settings` makes it: 8 rows, 2 a step, 2 epochs."""
TIMINGS: Final = ("step_time", "gft/timing/", "gft/tokens_per_second", "gft/peak_memory_bytes", "mfu", "gft/mfu")

GRADER: Final = StringCheckGrader(
    name="exact", input="{{sample.output_text}}", reference="{{item.reference_answer}}", operation="eq"
)
Kind = TypeVar("Kind", bound=Report)


def settings(method: str, patience: int | None = None, **options: Any) -> Settings:
    """Knobs of a short run with a learning rate that shows; `options` are the method's own or hyperparameters."""
    kind = SETTINGS[MethodType(method)]
    knobs: dict[str, Any] = {
        "grader": None if kind is PreferenceMethod else GRADER,
        "sampling": Sampling(max_tokens=6),
        "evaluation": Evaluation(patience=patience),
    } | {name: options.pop(name) for name in kind.model_fields.keys() & options.keys()}
    chosen: dict[str, Any] = {
        "batch_size": 2,
        "n_epochs": 2,
        "learning_rate_multiplier": 100.0,
        "checkpoint_interval": 1,
        "eval_interval": 3,
        "max_length": 64,
        "lora": Lora(r=4, alpha=8),
    } | options
    return kind.model_validate({"hyperparameters": chosen} | knobs)


@dataclass(frozen=True)
class Job:
    """A run directory with its data and base model."""

    run_dir: Path
    base: Path
    method: str = "gft"
    seed: int = 7
    rollout_urls: tuple[str, ...] = ()
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of its `TrainerSpec`."""
    retry_policy: RetryPolicy | None = None
    """Of runs in this process."""

    def write(
        self,
        *,
        resume_from: Path | None = None,
        training: Path | None = None,
        validation: Path | None = None,
        adapter_path: Path | None = None,
        **options: Any,
    ) -> TrainerSpec:
        """Writes spec.json, and the data that is not given."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        write = write_pairs if self.method == MethodType.dpo else write_rows
        rows = training or write(self.run_dir / "training.jsonl", 8)
        held_out = validation or write(self.run_dir / "validation.jsonl", 20, start=40)
        spec = TrainerSpec(
            job_id="ftjob-test",
            spec=JobSpec(
                model="tiny",
                method=MethodType(self.method),
                settings=settings(self.method, **options),
                seed=self.seed,
            ),
            base_model_dir=str(self.base),
            adapter_path=None if adapter_path is None else str(adapter_path),
            training_path=str(rows),
            validation_path=str(held_out),
            resume_from=None if resume_from is None else str(resume_from),
            threads=1,
            rollout_urls=self.rollout_urls,
            **self.trainer,
        )
        (self.run_dir / "spec.json").write_text(spec.model_dump_json(by_alias=True), encoding="utf-8")
        return spec

    def run(self, *, stopped: bool = False, **options: Any) -> tuple[TrainerExit, list[Report]]:
        """Writes the spec and runs it in this process; `stopped` requests a stop before the first step."""
        self.write(**options)
        out, stop = io.StringIO(), threading.Event()
        if stopped:
            stop.set()
        code = TrainerExit(run(self.run_dir, out, stop, retry_policy=self.retry_policy))
        return code, parse(out.getvalue())

    def sibling(self, name: str, **changes: Any) -> "Job":
        """Returns the same job in a directory of its own, next to this one."""
        return dataclasses.replace(self, run_dir=self.run_dir.with_name(name), **changes)

    @property
    def published(self) -> str:
        """sha256 of the published adapter."""
        return sha256(self.run_dir / "adapter" / "adapter_model.safetensors")

    def adapter_after(self, step: int) -> str:
        """sha256 of the adapter after `step`."""
        return sha256(self.checkpoint(step) / "adapter_state.safetensors")

    def checkpoint(self, step: int) -> Path:
        return self.run_dir / "checkpoints" / f"step-{step:08d}"


def messages(reports: list[Report]) -> list[Message]:
    """Messages to the user, except that the held-out rows of these runs are few."""
    return [one for one in of_kind(reports, Message) if "reporting_rows" not in (one.data or {})]


def parse(lines: str) -> list[Report]:
    """Reports, one a line; anything else on standard output is an error."""
    return [report_adapter.validate_json(line) for line in lines.splitlines()]


def of_kind(reports: list[Report], kind: type[Kind]) -> list[Kind]:
    return [report for report in reports if isinstance(report, kind)]


def evaluations(reports: list[Report]) -> list[Evaluated]:
    """Evaluations during training, which select the adapter."""
    return [report for report in of_kind(reports, Evaluated) if not report.is_result]


def results(reports: list[Report]) -> list[Evaluated]:
    """Results on the rows that report: before training, and of the published adapter."""
    return [report for report in of_kind(reports, Evaluated) if report.is_result]


def steady(reports: list[Report]) -> dict[int, dict[str, float | None]]:
    """Returns metrics by step without machine-dependent ones. Fails if a step is reported twice."""
    rows = of_kind(reports, Metrics)
    assert len({row.step for row in rows}) == len(rows)
    return {
        row.step: {name: value for name, value in row.values.items() if not name.startswith(TIMINGS)} for row in rows
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def trainer_process(job: Job) -> Iterator[Program]:
    """`python -m worker.training RUN_DIR`; dead when the block ends."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log, reports = job.run_dir / "trainer.log", job.run_dir / "reports"
    os.mkfifo(reports)
    with Program(
        "worker.training", [job.run_dir], directory=REPOSITORY, environment=environment, stdout=reports, stderr=log
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: Program, kind: type[Report], step: int) -> list[Report]:
    """Reports up to the one of this kind and step."""
    assert process.stdout is not None
    found: list[Report] = []
    for line in process.stdout:
        found.append(report_adapter.validate_json(line))
        if isinstance(found[-1], kind) and json.loads(line)["step"] == step:
            return found
    raise AssertionError(f"it ended with {process.wait()} before that: {found[-3:]}")
