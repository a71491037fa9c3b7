"""`make pictures`: the animated picture of `grouptune demo` in README, drawn from the output of a real run."""

import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Final

import pytest

from app.cli.demo.data import BASE_MODEL
from tests.terminal_picture import draw, record

pytestmark = [pytest.mark.pictures, pytest.mark.timeout(3600)]

MAX_BYTES: Final = 300_000
END: Final = b"Stopping the server"


def test_demo_picture(short_dir: Path) -> None:
    program = Path(sys.executable).with_name("grouptune")
    subprocess.run([program, "models", "pull", BASE_MODEL], check=True)
    home = {"GROUPTUNE_STATE_DIR": str(short_dir / "state")}
    outputs = record([program, "demo", "--no-keep"], os.environ | home)
    picture = draw("grouptune demo", [*takewhile(lambda output: END not in output.data, outputs)])
    (Path(os.environ["GROUPTUNE_PICTURES"]) / "demo.svg").write_text(picture, encoding="utf-8")
    assert len(picture.encode()) < MAX_BYTES
    assert "Held-out problems, never trained on" in picture
