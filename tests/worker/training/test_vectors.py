"""The golden vectors, and that the program which checks them can fail."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from bench import check_vectors

VECTORS: Final = Path(__file__).with_name("gft_vectors.json")
REPOSITORY: Final = Path(__file__).parents[3]


def altered(directory: Path, field: str) -> Path:
    """A copy in which one number of one case is off by a millionth."""
    content = json.loads(VECTORS.read_text(encoding="utf-8"))
    holder: Any = content["cases"][2]
    key: Any = field
    while isinstance(holder[key], list):
        holder, key = holder[key], 0
    holder[key] += 1e-6
    path = directory / "altered.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_golden_vectors_pass_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "bench/check_vectors.py", str(VECTORS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 cases" in done.stdout


@pytest.mark.parametrize(
    "field",
    ["advantages", "token_logprob", "coefficient", "loss", "grad_logits", "rectified_frac", "mean_entropy", "logits"],
)
def test_an_altered_number_fails(field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_vectors.main([str(altered(tmp_path, field))]) == 1
    assert "WRONG  in k8_one_correct" in capsys.readouterr().out


def test_not_a_number_fails(tmp_path: Path) -> None:
    path = tmp_path / "nan.json"
    content = json.loads(VECTORS.read_text(encoding="utf-8"))
    content["cases"][-1]["loss"] = float("nan")
    path.write_text(json.dumps(content), encoding="utf-8")
    assert check_vectors.main([str(path)]) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cases": []}', '{"cases": [{"name": "empty"}]}', "\0"])
def test_junk_is_no_file_of_vectors(content: str, tmp_path: Path) -> None:
    path = tmp_path / "junk.json"
    path.write_text(content, encoding="utf-8")
    assert check_vectors.main([str(path)]) == 2


@pytest.mark.parametrize("arguments", [[], ["one", "two"], ["/does/not/exist"]])
def test_wrong_arguments_are_told_from_wrong_numbers(arguments: list[str]) -> None:
    assert check_vectors.main(arguments) == 2
