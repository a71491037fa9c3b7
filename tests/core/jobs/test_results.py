"""The result file: OpenAI's columns first, then ours, with one line per step."""

import csv

from app.core.jobs.results import COLUMNS, csv_chunks
from app.core.jobs.tables import Metric

OPENAI = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"


def read(*metrics: Metric) -> list[dict[str, str]]:
    return list(csv.DictReader(b"".join(csv_chunks(metrics)).decode().splitlines()))


def test_csv_header_matches_openai() -> None:
    header = next(iter(csv_chunks([]))).decode()
    assert header.startswith(f"{OPENAI},")
    assert header.endswith("\n")
    assert len(set(header.strip().split(","))) == len(COLUMNS) + 1


def test_csv_keeps_precision_and_gaps() -> None:
    first, second = read(
        Metric(job_id="j", step=0, values={"eval/reward": 0.25, "eval/loss": None}),
        Metric(job_id="j", step=1, values={"loss": 0.1 + 0.2, "reward": 1.0, "num_tokens": 12.0, "other": 3}),
    )
    assert (first["step"], first["train_loss"], first["valid_loss"]) == ("0", "", "")
    assert first["full_valid_mean_reward"] == "0.25"
    assert float(second["train_loss"]) == 0.1 + 0.2
    assert (second["train_mean_reward"], second["trained_tokens"]) == ("1.0", "12.0")
    assert "other" not in second
