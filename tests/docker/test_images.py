"""The Dockerfiles and shell scripts of docker/, checked without a container engine."""

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.dependencies import closure

ROOT: Final = Path(__file__).parents[2]
DOCKER: Final = ROOT / "docker"
DOCKERFILES: Final = sorted(DOCKER.glob("*.Dockerfile"))
SCRIPTS: Final = sorted(DOCKER.rglob("*.sh"))
TOOLS: Final = Path(sys.executable).parent


def entrypoint(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    argv = ["sh", str(DOCKER / "entrypoint.sh"), *command]
    return subprocess.run(argv, env={"PATH": os.environ["PATH"]} | environment, capture_output=True, text=True)


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether the last pattern that matches `path`, or a directory above it, excludes it."""
    excluded = False
    candidates = [path, *map(str, Path(path).parents)][:-1]
    for pattern in patterns:
        plain = pattern.removeprefix("!").removeprefix("**/")
        if any(fnmatch.fnmatch(name, plain) or fnmatch.fnmatch(Path(name).name, plain) for name in candidates):
            excluded = not pattern.startswith("!")
    return excluded


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_passes(path: Path) -> None:
    done = subprocess.run([TOOLS / "hadolint", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_passes(path: Path) -> None:
    done = subprocess.run([TOOLS / "shellcheck", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_copied_files_are_tracked_and_not_ignored(path: Path) -> None:
    patterns = [line for line in Path(f"{path}.dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = re.findall(r"^COPY ((?!--from).*) \S+$", path.read_text(), re.MULTILINE)
    sources = [source for words in copied for source in words.split()]
    assert sources
    tracked = subprocess.run(["git", "ls-files", *sources], cwd=ROOT, capture_output=True, text=True, check=True)
    for source in sources:
        files = [name for name in tracked.stdout.splitlines() if name == source or name.startswith(f"{source}/")]
        assert files, source
        assert [name for name in files if ignored(name, patterns)] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_image_sets_user_and_health_check(path: Path) -> None:
    last = path.read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", last, re.MULTILINE)


def test_images_have_what_their_processes_need() -> None:
    """The API has no torch, and a worker no FastAPI: tests/test_architecture.py checks that they import neither."""
    extras = {path.stem: re.findall(r"ARG EXTRAS=(\S+)", path.read_text())[0].split(",") for path in DOCKERFILES}
    packages = {name: closure(*names) for name, names in extras.items()}
    training, serving = {"torch", "transformers", "peft", "accelerate"}, {"starlette", "uvicorn"}
    assert serving | {"fastapi"} <= packages["api"]
    assert training | serving | {"llguidance"} <= packages["worker"]  # the embedded engine runs in the worker image
    assert not training & packages["api"]
    assert "fastapi" not in packages["worker"]
    assert {"celery", "redis", "psycopg", "psycopg-binary"} <= packages["api"] & packages["worker"]


def test_entrypoint_reads_secret_files(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://a'b\"c $HOME\n")
    done = entrypoint("printenv", "DATABASE_URL", DATABASE_URL_FILE=str(secret))
    assert (done.returncode, done.stdout) == (0, "postgresql://a'b\"c $HOME\n")
    assert entrypoint("printenv", "DATABASE_URL_FILE", DATABASE_URL_FILE=str(secret)).returncode == 1


def test_entrypoint_refuses_duplicate_or_missing(tmp_path: Path) -> None:
    both = entrypoint("true", REDIS_URL="redis://x", REDIS_URL_FILE=str(tmp_path / "url"))
    assert (both.returncode, both.stderr) == (78, "Set REDIS_URL or REDIS_URL_FILE, not both.\n")
    missing = entrypoint("true", REDIS_URL_FILE=str(tmp_path / "url"))
    assert missing.returncode == 78
    assert "REDIS_URL_FILE names a file that uid" in missing.stderr
