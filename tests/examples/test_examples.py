"""Tests of examples/, against a running installation."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from app.api.schemas.create_job import CreateJob
from app.cli.demo.command import DEFAULT_SEED
from app.cli.demo.data import write_dataset
from app.core.files.validation import validate_file

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = ("arithmetic.train.jsonl", "arithmetic.heldout.jsonl")


def test_shipped_data_matches_script(tmp_path: Path) -> None:
    write_dataset(tmp_path / DATA[0], tmp_path / DATA[1], seed=DEFAULT_SEED)
    for name in DATA:
        assert (EXAMPLES / name).read_bytes() == (tmp_path / name).read_bytes(), "run examples/make_arithmetic.py"
        assert validate_file(EXAMPLES / name).valid


def test_quickstart_trains(stack: Any) -> None:
    environment = os.environ | {"OPENAI_BASE_URL": stack.base_url, "OPENAI_API_KEY": stack.api_key}
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), "tiny", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Created fine-tuning job: ftjob-")
    assert "The job has successfully completed" in lines
    asked = lines.index(next(line for line in lines if line.startswith("succeeded ft:tiny:")))
    _, model = lines[asked].split()
    answers = "\n".join(lines[asked + 1 :])
    assert answers.startswith("tiny: ")
    assert f"\n{model}: " in answers


def test_example_job_is_valid() -> None:
    body = yaml.safe_load((EXAMPLES / "job.yaml").read_text())
    assert CreateJob.model_validate(body).model == "smollm2-135m-instruct"
    assert (EXAMPLES / body["training_file"]).is_file()
