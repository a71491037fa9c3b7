"""Runs the script from docs/openai-migration.md against a running installation."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import write_rows

PAGE = Path(__file__).parents[2] / "docs" / "openai-migration.md"
ADDRESS = 'base_url="http://127.0.0.1:8000/v1", api_key="gt_live_..."'
MODEL = "smollm2-135m-instruct"


def diff() -> list[str]:
    block = re.search(r"```diff\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    return block.group(1).splitlines()


def migrated(stack: Any) -> tuple[str, dict[str, str]]:
    """Return the migrated script with the test server's address, key and model, and its environment."""
    text = "\n".join(line[1:] for line in diff() if not line.startswith("-"))
    assert ADDRESS in text
    assert MODEL in text
    text = text.replace(ADDRESS, f"base_url={stack.base_url!r}, api_key={stack.api_key!r}").replace(MODEL, "tiny")
    return text, {}


def untouched(stack: Any) -> tuple[str, dict[str, str]]:
    """Return the original script, which reads its address from the environment and result files as base64."""
    text = "\n".join(line[1:] for line in diff() if not line.startswith("+"))
    assert "gpt-4o-mini-2024-07-18" in text
    text = text.replace("job.result_files[0])", 'job.result_files[0], extra_query={"encoding": "base64"})')
    return text, {"OPENAI_BASE_URL": stack.base_url, "OPENAI_API_KEY": stack.api_key}


@pytest.mark.parametrize("version", [migrated, untouched], ids=["migrated", "untouched"])
def test_script_prints_its_result_file(stack: Any, tmp_path: Path, version: Any) -> None:
    write_rows(tmp_path / "train.jsonl", 8)
    text, environment = version(stack)
    command = [sys.executable, "-c", text]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"OPENAI_API_KEY": ""} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events, ending, table = re.split(r"^(succeeded ft:tiny:\S+)\n", done.stdout, flags=re.MULTILINE)
    assert "The job has successfully completed" in events
    assert ":sums:" in ending
    rows = list(csv.DictReader(table.strip().splitlines()))
    assert [row["step"] for row in rows] == [str(step) for step in range(1, len(rows) + 1)]
    assert all(float(row["train_loss"]) > 0 for row in rows)
