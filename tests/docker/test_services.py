"""The commands of docker/compose.yaml as processes, with their environment, through the images' entrypoint."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest
from openai import OpenAI

from tests.docker.test_compose import DOCKER, SERVICES, made_secrets
from tests.http_server import free_port
from tests.s3_server import CREDENTIALS, s3_client
from tests.tiny_model import write_rows
from tests.waiting import eventually

TRAINING: Final = ("api", "worker-default", "worker-cpu")


def of_image(service: str, line: str) -> list[str]:
    """The words of the image's line that begins so; the last one's, where there are several stages."""
    name = SERVICES[service]["build"]["dockerfile"].rpartition("/")[2]
    found = [one for one in (DOCKER / name).read_text().splitlines() if one.startswith(line)]
    words: list[str] = json.loads(found[-1].partition(line)[2])
    return words


class Installation:
    """Starts services of the compose file on this machine."""

    def __init__(self, directory: Path, engines: dict[str, str], models: Path) -> None:
        self._directory = directory
        self._secrets = made_secrets(directory)
        for name, value in engines.items():
            self._secrets[name].chmod(0o600)
            self._secrets[name].write_text(value + "\n")
        self.ports = {service: free_port() for service in SERVICES}
        self._own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(DOCKER.parent),
            "HOME": str(directory),
            "GROUPTUNE_STATE_DIR": str(directory / "state"),
            "GROUPTUNE_MODELS_DIR": str(models),
            "OMP_NUM_THREADS": "1",
        }
        self.running: list[psutil.Popen] = []

    def command(self, service: str, *words: str) -> list[str]:
        """Through the entrypoint: `words`, or what the service runs."""
        argv = list(words) or SERVICES[service].get("command") or of_image(service, "CMD ")
        return ["sh", str(DOCKER / "entrypoint.sh"), *self._moved(service, argv)]

    def is_well(self, service: str) -> bool:
        """By the health check of its image."""
        argv = self._moved(service, of_image(service, "    CMD "))
        return subprocess.run(argv, env=self._own, capture_output=True).returncode == 0

    def _moved(self, service: str, argv: list[str]) -> list[str]:
        """With this test's ports and directory in place of the container's."""
        port = str(self.ports[service])
        places = {"/tmp/": f"{self._directory}/", "8000": port, "9200": port}  # noqa: S108 - the container's own
        for old, new in places.items():
            argv = [word.replace(old, new) for word in argv]
        return argv

    def environment(self, service: str, storage: str) -> dict[str, str]:
        """The service's, its secrets in the directory of this test."""
        secrets = {
            name: str(self._secrets[Path(value).name]) if value.startswith("/run/secrets/") else value
            for name, value in SERVICES[service]["environment"].items()
        }
        changed = {"GROUPTUNE_STORAGE_ENDPOINT": storage, "GROUPTUNE_WORKER_METRICS_HOST": "127.0.0.1"}
        changed |= {"GROUPTUNE_TRAINER_THREADS": "1", "GROUPTUNE_WORKER_METRICS_PORT": str(self.ports[service])}
        return self._own | secrets | {name: value for name, value in changed.items() if name in secrets}


def end(process: psutil.Popen) -> None:
    """Drains it, unless the test has."""
    if process.is_running():
        process.terminate()
    process.wait(60)


@pytest.fixture
def installation(
    short_dir: Path, postgres_url: str, broker_url: str, s3_address: str, tiny_models: Path
) -> Iterator[tuple[Installation, str]]:
    """All services that train on a CPU, over the engines of the tests, and an API key."""
    directory = short_dir / "compose"
    directory.mkdir()
    engines = {
        "database_url": postgres_url,
        "redis_url": broker_url,
        "s3_access_key": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "s3_secret_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    }
    made = Installation(directory, engines, tiny_models)
    s3_client(s3_address).create_bucket(Bucket="grouptune")

    def run(service: str, *words: str) -> str:
        argv, environment = made.command(service, *words), made.environment(service, s3_address)
        return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout

    with ExitStack() as ends:
        ends.callback(shutil.rmtree, directory, ignore_errors=True)
        run("migrate")
        key = run("migrate", "grouptune", "db", "admin-key").strip()
        for service in TRAINING:
            log = ends.enter_context((directory / f"{service}.log").open("wb"))
            environment = made.environment(service, s3_address)
            process = psutil.Popen(made.command(service), env=environment, stdout=log, stderr=log)
            made.running.append(process)
            ends.callback(end, process)
        yield made, key


def test_a_job_runs_through_and_the_services_drain(installation: tuple[Installation, str], tmp_path: Path) -> None:
    made, key = installation
    root = f"http://127.0.0.1:{made.ports['api']}"
    for service in TRAINING:
        eventually(partial(made.is_well, service), 60)
    assert httpx.get(f"{root}/readyz").status_code == httpx.codes.OK
    client = OpenAI(base_url=f"{root}/v1", api_key=key)
    file = client.files.create(file=write_rows(tmp_path / "rows.jsonl", 8), purpose="fine-tune")
    settings: Any = {"hyperparameters": {"batch_size": 2, "n_epochs": 1}}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, method={"type": "supervised", "supervised": settings}
    )
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status in ("succeeded", "failed"), 90)
    ended = client.fine_tuning.jobs.retrieve(job.id)
    assert (ended.status, ended.error) == ("succeeded", None)
    for process in made.running:
        process.terminate()
    # uvicorn lets the signal end it once it has drained.
    assert [process.wait(60) for process in made.running] == [-signal.SIGTERM, 0, 0]
    assert not any(made.is_well(service) for service in TRAINING)
