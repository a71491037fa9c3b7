"""What is released: built from the source distribution, installed away from the repository, and started there."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, with no npm on PATH."""
    out = tmp_path_factory.mktemp("release")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, "--sdist", str(ROOT)], check=True, capture_output=True, timeout=60)
    [source] = out.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(out / "source", filter="data")
    [unpacked] = (out / "source").iterdir()
    environment = os.environ | {"PATH": "/usr/bin/nothing"}
    subprocess.run([*build, "--wheel", str(unpacked)], check=True, capture_output=True, timeout=60, env=environment)
    [found] = out.glob("*.whl")
    return found


def test_the_wheel_holds_dashboard_and_migrations_and_not_what_they_are_made_from(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "app/dashboard/dist/index.html" in names
    assert any(name.startswith("app/dashboard/dist/assets/") and name.endswith(".js") for name in names)
    scripts = {f"migrations/versions/{path.name}" for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert scripts <= names
    assert "migrations/script.py.mako" in names
    strange = [name for name in names if name.startswith("app/dashboard/") and "/dist/" not in name]
    assert strange == []
    assert [name for name in names if name.startswith(("tests/", "docs/")) or "node_modules" in name] == []


def test_it_runs_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    target, away = tmp_path / "installed", tmp_path / "away"
    away.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=60)
    state = away / "state"
    # Before the editable installation, in all processes that it starts.
    environment = os.environ | {"PYTHONPATH": str(target), "GROUPTUNE_MODELS_DIR": str(away / "models")}
    where = [sys.executable, "-c", "import app, migrations, worker; print(app.__file__, migrations.__path__, worker)"]
    told = subprocess.run(where, check=True, capture_output=True, text=True, env=environment, cwd=away).stdout
    assert str(ROOT) not in told
    command = [str(target / "bin" / "grouptune"), "up", "--state-dir", str(state)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=away, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            base_url = process.stdout.readline().strip()
            address = base_url.removesuffix("/v1")
            assert httpx.get(f"{address}/readyz", trust_env=False).json()["status"] == "ok"
            page = httpx.get(f"{address}/ui", trust_env=False, follow_redirects=True)
            assert page.headers["content-type"].startswith("text/html")
            script = page.text.partition('src="')[2].partition('"')[0]
            assert httpx.get(f"{address}{script}", trust_env=False).status_code == 200
            key = json.loads((state / "connection.json").read_text())["api_key"]
            listed = httpx.get(f"{base_url}/models", headers={"authorization": f"Bearer {key}"}, trust_env=False)
            assert listed.status_code == 200
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
