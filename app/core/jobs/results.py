"""The result file of a finished job: its metrics as CSV, with OpenAI's columns first."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Final

from sqlalchemy.orm import Session

from app.core.files.tables import File, FileStatus
from app.core.files.uploads import ReceivedFile
from app.core.jobs.tables import Metric

PURPOSE: Final = "fine-tune-results"
FILENAME: Final = "step_metrics.csv"
COLUMNS: Final = {
    # OpenAI's columns, in its order. Token accuracies are not measured, so those two columns stay empty.
    "train_loss": "loss",
    "train_accuracy": "train_accuracy",
    "valid_loss": "eval/loss",
    "valid_mean_token_accuracy": "eval/mean_token_accuracy",
    # Our own columns.
    "train_mean_reward": "reward",
    "train_reward_std": "reward_std",
    "full_valid_mean_reward": "eval/reward",
    "full_valid_accuracy": "eval/accuracy",
    "entropy": "entropy",
    "kl": "kl",
    "valid_entropy": "eval/entropy",
    "valid_forward_kl": "eval/forward_kl",
    "rectified_fraction": "gft/rectified_frac",
    "completion_tokens_mean": "completions/mean_length",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "trained_tokens": "num_tokens",
    "step_seconds": "step_time",
}
"""Column after `step` -> its metric. A cell is empty if the step has no such value."""


def csv_chunks(metrics: Iterable[Metric]) -> Iterator[bytes]:
    """Yield the file line by line. Step 0 is the evaluation before training."""
    yield _line(["step", *COLUMNS])
    for metric in metrics:
        yield _line([metric.step, *(metric.values.get(name) for name in COLUMNS.values())])


def _line(cells: Iterable[object]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)  # None becomes an empty cell
    return out.getvalue().encode()


def add_file(session: Session, project_id: str, received: ReceivedFile) -> File:
    """Add the row of a stored result file. It needs no validation."""
    file = File(
        id=received.file_id,
        project_id=project_id,
        filename=FILENAME,
        purpose=PURPOSE,
        bytes=received.bytes,
        sha256=received.sha256,
        blob=received.blob,
        status=FileStatus.processed,
    )
    session.add(file)
    session.flush()
    return file
