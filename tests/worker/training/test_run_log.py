"""The trainer's log: a line for each phase."""

import re
from pathlib import Path

import pytest

from app.core.spec.reports import Evaluated, TrainerExit
from tests.tiny_model import write_rows
from tests.worker.training.runs import Job
from worker.training.run_log import ReportLog, open_log

PHASES = (
    r"Attempt 1 of ftjob-test: supervised on tiny",
    r"Device cpu \(1 thread\), torch 2",
    r"Base model /.+ loaded in [\d.]+ s: [\d,]+ parameters \(native\), adapter [\d,]+ \([\d.]+ %\)",
    r"Training path: fast, selected by a comparison that took [\d.]+ s$",
    r"Training file: 8 rows used, 1 dropped \(.+\)",
    r"Held-out file: 20 rows used",
    r"Training starts: 2 steps of 4 rows in 1 epoch, learning rate",
    r"Evaluation at step 0: .*loss \d",
    r"Evaluation at step 2: .*loss \d.*; the best so far",
    r"Checkpoint of step 2 written to /",
    r"Published the adapter of step 2 \(.+\) after 2 steps and \d+ trained tokens",
)


def test_log_names_each_phase(tmp_path: Path, chat_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    with rows.open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "1+1="}]}\n')
    code, _ = Job(tmp_path / "run", chat_directory, "supervised").run(
        training=rows, batch_size=4, n_epochs=1, max_steps=None
    )
    assert code == TrainerExit.succeeded
    text = capsys.readouterr().err
    at = 0
    for phase in PHASES:
        found = re.compile(rf"^\d{{4}}-.*Z INFO {phase}", re.MULTILINE).search(text, at)
        assert found, f"{phase} is missing after:\n{text[:at]}\nin:\n{text}"
        at = found.end()


def test_result_of_the_same_rows_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """Too few held-out rows to split: those that training is watched by report too."""
    open_log()
    report_log, evaluated = ReportLog(), Evaluated(step=2, values={"eval/loss": 1.5})
    report_log.note(evaluated)
    report_log.note(evaluated.model_copy(update={"is_result": True}))
    report_log.note(Evaluated(step=2, values={"eval/loss": 1.25}, is_result=True))
    lines = [line.partition("INFO ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "Evaluation at step 2: loss 1.5",
        "The evaluation at step 2 is the result: all held-out rows report",
        "Result at step 2: loss 1.25",
    ]
