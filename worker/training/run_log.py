"""The trainer's log for people: a line for each phase on standard error, which the worker redacts and stores.

Most lines are the trainer's reports in words; steps are left out, because metrics have them.
"""

import logging
import os
import sys
import time
from collections.abc import Iterable
from typing import Any, Final

import torch

from app.core.plurals import plural
from app.core.spec.job import TrainerSpec
from app.core.spec.reports import (
    CheckpointSaved,
    DemonstrationsGraded,
    Evaluated,
    Failed,
    Finished,
    Message,
    Report,
    Started,
)
from worker.training.model import Policy

log: Final = logging.getLogger("grouptune.trainer")
_LEVELS: Final = {"info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def open_log() -> None:
    """Send the log to standard error, with times in UTC. A second call replaces the handler."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def note_start(trainer: TrainerSpec, device: torch.device) -> None:
    """Log the job, the attempt and the device."""
    threads = plural(trainer.threads or os.cpu_count() or 1, "thread")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    spec = trainer.spec
    log.info("Attempt %d of %s: %s on %s", trainer.attempt, trainer.job_id, spec.method, spec.model)
    log.info("Device %s (%s), torch %s", device, name, torch.__version__)


def note_model(policy: Policy, directory: str, seconds: float, precision: str) -> None:
    """Log the base model, the adapter, and how log-probabilities are computed."""
    adapter = sum(parameter.numel() for parameter in policy.trained.values())
    log.info(
        "Base model %s loaded in %.1f s: %s parameters (%s), adapter %s (%.2g %%)",
        directory,
        seconds,
        f"{policy.base_parameters:,}",
        precision,
        f"{adapter:,}",
        100 * adapter / policy.base_parameters,
    )
    path = policy.path  # a job that takes the plain path also reports the reason
    log.info("Training path: %s, selected by a comparison that took %.1f s", path.name, path.check_seconds)


class ReportLog:
    """Logs the reports of a run in words."""

    def __init__(self) -> None:
        self._latest: Evaluated | None = None

    def note(self, report: Report) -> None:
        """Log a report, unless it is one of the many of a step."""
        if isinstance(report, Evaluated):
            self._note_evaluation(report)
        else:
            _note(report)

    def _note_evaluation(self, report: Evaluated) -> None:
        latest, self._latest = self._latest, report
        if report.is_result and latest is not None and (latest.step, latest.values) == (report.step, report.values):
            log.info("The evaluation at step %d is the result: all held-out rows report", report.step)
            return
        what = "Result" if report.is_result else "Evaluation"
        best = "; the best so far" if report.best else ""
        log.info("%s at step %d: %s%s", what, report.step, _values(report.values), best)


def _note(report: Report) -> None:
    match report:
        case Started():
            _note_started(report)
        case DemonstrationsGraded():
            log.info("Demonstrations: %s of %s graded", f"{report.counts.graded:,}", f"{report.counts.total:,}")
        case CheckpointSaved():
            log.info("Checkpoint of step %d written to %s", report.step, report.path)
        case Finished():
            log.info(
                "Published the adapter of step %d (%s) after %s and %s trained tokens",
                report.published_step,
                report.reason,
                plural(report.step, "step"),
                f"{report.trained_tokens:,}",
            )
        case Failed():
            log.error("Failed with %s: %s", report.code, report.message)
        case Message():
            log.log(_LEVELS[report.level], "%s", report.message)
        case _:
            pass


def _note_started(started: Started) -> None:
    for name, use in started.rows.items():
        dropped = ", ".join(f"{count:,} dropped ({reason})" for reason, count in use["dropped"].items())
        file = "Held-out file" if name == "held_out_rows" else "Training file"
        log.info("%s: %s used%s", file, plural(use["used"], "row"), f", {dropped}" if dropped else "")
    begin = f"resumes after step {started.resumed_from_step}" if started.resumed_from_step else "starts"
    log.info(
        "Training %s: %s of %s in %s, learning rate %.3g",
        begin,
        plural(started.total_steps, "step"),
        plural(started.batch_size, "row"),
        plural(started.n_epochs, "epoch"),
        started.learning_rate,
    )


def _values(values: dict[str, Any]) -> str:
    return ", ".join(_shown(values.items())) or "no values"


def _shown(items: Iterable[tuple[str, float | None]]) -> Iterable[str]:
    return (f"{name.removeprefix('eval/')} {value:.4g}" for name, value in items if value is not None)
