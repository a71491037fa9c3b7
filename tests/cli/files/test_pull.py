"""`grouptune files pull` from a hub that speaks the real one's protocol, through the real client library."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run, Start
from tests.hub_server import hub_server

CARD = b"""---
configs:
- config_name: main
  data_files:
  - {split: train, path: train.jsonl}
  - {split: test, path: test.jsonl}
- config_name: hard
  data_files: [{split: train, path: test.jsonl}]
---
"""
Pull = Callable[..., tuple[int, str, str]]


def lines(*rows: tuple[str, str]) -> bytes:
    return "".join(json.dumps({"question": one, "answer": two, "level": 3}) + "\n" for one, two in rows).encode()


@pytest.fixture
def pull(start_grouptune: Start, tmp_path: Path) -> Iterator[Pull]:
    """Run `grouptune files pull WORDS...` against the hub; returns exit code, standard output and error.

    In an interpreter of its own, because the hub's library reads its environment when it is imported.
    """
    files = {"README.md": CARD, "train.jsonl": lines(*[(f"{n}+1", str(n + 1)) for n in range(9)])}
    files["test.jsonl"] = lines(("1+1", "2"), (" ", "3"))
    with hub_server({"org/sums": files}) as url:

        def run(*words: object, hub: str = url) -> tuple[int, str, str]:
            environment = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
            with start_grouptune("files", "pull", *words, **environment) as process:
                out, err = process.communicate(timeout=240)
            return process.returncode, out.strip(), err

        yield run


def test_rows_become_a_validated_file(pull: Pull, grouptune: Run, tmp_path: Path) -> None:
    columns = ("--column", "prompt=question", "--column", "completion=answer")
    code, file_id, messages = pull("hf:org/sums:main", "--rows", 4, *columns, "--drop", "level", "--upload")
    assert code == ExitCode.ok, messages
    assert "hf:org/sums:main/train\n" in messages
    assert grouptune("files", "list").stdout.count("sums-train.jsonl") == 1
    report = json.loads(grouptune("files", "report", file_id, "--json").stdout)
    assert report["status"] in ("uploaded", "processed")

    path = tmp_path / "rows.jsonl"
    code, _, messages = pull("hf:org/sums:main/test", *columns, "-o", path)
    assert code == ExitCode.error
    assert "Row 2 is not a valid training row: `prompt` is empty" in messages
    assert not path.exists()
    code, shown, _ = pull("hf:org/sums:main/train", *columns, "-o", path)
    assert (code, shown) == (ExitCode.ok, str(path))
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {"question": "0+1", "answer": "1", "level": 3, "prompt": "0+1", "completion": "1"}
    assert len(path.read_text().splitlines()) == 9


def test_ambiguous_and_missing_data_sets(pull: Pull) -> None:
    for words, message in (
        (("hf:org/sums",), "several configs. Write one of hf:org/sums:main, hf:org/sums:hard."),
        (("hf:org/sums:main",), "for example: --column prompt=question --column completion=answer"),
        (("hf:org/nothing",), "'org/nothing' could not be read from the hub"),
    ):
        code, _, messages = pull(*words)
        assert code == ExitCode.error
        assert message in messages
    code, _, messages = pull("hf:org/sums", hub="http://127.0.0.1:9")
    assert code == ExitCode.error
    assert "Connection refused. Check the name and the network" in messages
