"""The release: a wheel is built from the source distribution, installed outside the repository and started there."""

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
    """The wheel, built from the source distribution without npm on PATH."""
    out = tmp_path_factory.mktemp("release")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, "--sdist", str(ROOT)], check=True, capture_output=True, timeout=240)
    [sdist] = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "source", filter="data")
    [sources] = (out / "source").iterdir()
    environment = os.environ | {"PATH": "/usr/bin/nothing"}
    subprocess.run([*build, "--wheel", str(sources)], check=True, capture_output=True, timeout=240, env=environment)
    [wheel] = out.glob("*.whl")
    return wheel


def test_wheel_has_build_output_but_no_sources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "app/dashboard/dist/index.html" in names
    assert any(name.startswith("app/dashboard/dist/assets/") and name.endswith(".js") for name in names)
    assert {"app/site/dist/index.html", "app/site/dist/search.json"} <= names
    scripts = {f"migrations/versions/{path.name}" for path in (ROOT / "migrations" / "versions").glob("*.py")}
    assert scripts <= names
    assert "migrations/script.py.mako" in names
    built = ("app/dashboard/", "app/site/")
    assert [name for name in names if name.startswith(built) and "/dist/" not in name] == []
    assert "app/hatch_build.py" not in names
    assert [name for name in names if name.startswith(("tests/", "docs/")) or "node_modules" in name] == []


def test_wheel_runs_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    target, directory = tmp_path / "installed", tmp_path / "directory"
    directory.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=240)
    state = directory / "state"
    # Takes precedence over the editable installation, also in child processes.
    environment = os.environ | {"PYTHONPATH": str(target), "GROUPTUNE_MODELS_DIR": str(directory / "models")}
    imports = [sys.executable, "-c", "import app, migrations, worker; print(app.__file__, migrations.__path__, worker)"]
    paths = subprocess.run(imports, check=True, capture_output=True, text=True, env=environment, cwd=directory).stdout
    assert str(ROOT) not in paths
    command = [str(target / "bin" / "grouptune"), "up", "--state-dir", str(state)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=directory, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            base_url = process.stdout.readline().strip()
            address = base_url.removesuffix("/v1")
            assert httpx.get(f"{address}/readyz", trust_env=False).json()["status"] == "ok"
            page = httpx.get(f"{address}/ui", trust_env=False, follow_redirects=True)
            assert page.headers["content-type"].startswith("text/html")
            script = page.text.partition('src="')[2].partition('"')[0]
            assert httpx.get(f"{address}/{script}", trust_env=False).status_code == 200
            key = json.loads((state / "connection.json").read_text())["api_key"]
            listed = httpx.get(f"{base_url}/models", headers={"authorization": f"Bearer {key}"}, trust_env=False)
            assert listed.status_code == 200
        finally:
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
