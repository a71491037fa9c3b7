"""Runs the commands of docker/compose.yaml as local processes, with their environment and the images' entrypoint."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest
from openai import OpenAI

from tests.docker.test_compose import DOCKER, SERVICES, make_secrets
from tests.http_server import free_port
from tests.s3_server import CREDENTIALS, s3_client
from tests.tiny_model import write_rows
from tests.waiting import eventually

TRAINING: Final = ("api", "worker-default", "worker-cpu", "engine")


def dockerfile_words(service: str, instruction: str) -> list[str]:
    """The words of an instruction in the service's Dockerfile; of the last one if several stages have it."""
    name = SERVICES[service]["build"]["dockerfile"].rpartition("/")[2]
    lines = [line for line in (DOCKER / name).read_text().splitlines() if line.startswith(instruction)]
    words: list[str] = json.loads(lines[-1].partition(instruction)[2])
    return words


class Installation:
    """Runs services of the compose file as local processes."""

    def __init__(self, directory: Path, engines: dict[str, str], models: Path) -> None:
        self._directory = directory
        self._secrets = make_secrets(directory)
        for name, value in engines.items():
            self._secrets[name].chmod(0o600)
            self._secrets[name].write_text(value + "\n")
        self.ports = {service: free_port() for service in SERVICES}
        self._base = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(DOCKER.parent),
            "HOME": str(directory),
            "GROUPTUNE_STATE_DIR": str(directory / "state"),
            "GROUPTUNE_MODELS_DIR": str(models),
            "OMP_NUM_THREADS": "1",
        }
        self.running: dict[str, psutil.Popen] = {}

    def command(self, service: str, *words: str) -> list[str]:
        """The command line of `words`, or of the service's own command, with the entrypoint."""
        argv = list(words) or SERVICES[service].get("command") or dockerfile_words(service, "CMD ")
        return ["sh", str(DOCKER / "entrypoint.sh"), *self._relocate(service, argv)]

    def is_healthy(self, service: str) -> bool:
        """Run the health check of the service, or else of its image."""
        own = SERVICES[service].get("healthcheck", {}).get("test")
        argv = self._relocate(service, own[1:] if own else dockerfile_words(service, "    CMD "))
        return subprocess.run(argv, env=self._base, capture_output=True).returncode == 0

    def await_health(self, service: str) -> None:
        """Wait until the service is healthy. Raises `AssertionError` with its log if it ends or stays unhealthy."""

        def is_healthy_or_ended() -> bool:
            return self.is_healthy(service) or self.running[service].poll() is not None

        try:
            eventually(is_healthy_or_ended)
            assert self.running[service].poll() is None, f"{service} ended with {self.running[service].poll()}"
        except AssertionError as error:
            error.add_note(self.log(service).read_text()[-4000:])
            raise

    def log(self, service: str) -> Path:
        """The output of the service."""
        return self._directory / f"{service}.log"

    def _relocate(self, service: str, argv: list[str]) -> list[str]:
        """Replace the container's ports and directory by those of this test."""
        words = [re.sub(r"\b(8000|8001|9200)\b", str(self.ports[service]), word) for word in argv]
        return [word.replace("/tmp/", f"{self._directory}/") for word in words]  # noqa: S108 - a path in the container

    def environment(self, service: str, storage: str) -> dict[str, str]:
        """The service's environment, with secrets from the directory of this test."""
        secrets = {
            name: str(self._secrets[Path(value).name]) if value.startswith("/run/secrets/") else value
            for name, value in SERVICES[service]["environment"].items()
        }
        overrides = {"GROUPTUNE_STORAGE_ENDPOINT": storage, "GROUPTUNE_WORKER_METRICS_HOST": "127.0.0.1"}
        overrides |= {
            "GROUPTUNE_SERVE_URL": f"http://127.0.0.1:{self.ports['engine']}",
            "GROUPTUNE_SERVE_DIR": str(self._directory / "serving"),
        }
        overrides |= {"GROUPTUNE_TRAINER_THREADS": "1", "GROUPTUNE_WORKER_METRICS_PORT": str(self.ports[service])}
        return self._base | secrets | {name: value for name, value in overrides.items() if name in secrets}


def stop(process: psutil.Popen) -> None:
    """Terminate the process, unless the test did, and wait for its end."""
    if process.is_running():
        process.terminate()
    process.wait(240)


@pytest.fixture
def installation(
    short_dir: Path, empty_url: str, broker_url: str, s3_address: str, tiny_models: Path
) -> Iterator[tuple[Installation, str]]:
    """The services that train on a CPU, on the test engines, and an API key."""
    directory = short_dir / "compose"
    directory.mkdir()
    engines = {
        "database_url": empty_url,
        "redis_url": broker_url,
    } | {
        f"s3_{role}_{part}_key": CREDENTIALS[name]
        for role in ("api", "worker")
        for part, name in (("access", "AWS_ACCESS_KEY_ID"), ("secret", "AWS_SECRET_ACCESS_KEY"))
    }
    services = Installation(directory, engines, tiny_models)
    s3_client(s3_address).create_bucket(Bucket="grouptune")

    def run(service: str, *words: str) -> str:
        argv, environment = services.command(service, *words), services.environment(service, s3_address)
        return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout

    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        run("migrate")
        key = run("migrate", "grouptune", "db", "admin-key").strip()
        for service in TRAINING:
            log = stack.enter_context(services.log(service).open("wb"))
            environment = services.environment(service, s3_address)
            process = psutil.Popen(services.command(service), env=environment, stdout=log, stderr=log)
            services.running[service] = process
            stack.callback(stop, process)
        yield services, key


def test_job_succeeds_and_services_drain(installation: tuple[Installation, str], tmp_path: Path) -> None:
    services, key = installation
    root = f"http://127.0.0.1:{services.ports['api']}"
    for service in TRAINING:
        services.await_health(service)
    assert httpx.get(f"{root}/readyz").status_code == httpx.codes.OK
    client = OpenAI(base_url=f"{root}/v1", api_key=key)
    file = client.files.create(file=write_rows(tmp_path / "rows.jsonl", 8), purpose="fine-tune")
    settings: Any = {"hyperparameters": {"batch_size": 2, "n_epochs": 1}}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, method={"type": "supervised", "supervised": settings}
    )
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status in ("succeeded", "failed"))
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error) == ("succeeded", None)
    question: Any = [{"role": "user", "content": "1+1="}]
    answer = client.chat.completions.create(model=str(job.fine_tuned_model), messages=question, max_tokens=4)
    assert answer.model == job.fine_tuned_model
    assert answer.choices[0].finish_reason in ("stop", "length")
    for process in services.running.values():
        process.terminate()
    # uvicorn drains first and then exits by the signal.
    assert [process.wait(240) for process in services.running.values()] == [-signal.SIGTERM, 0, 0, -signal.SIGTERM]
    assert not any(services.is_healthy(service) for service in TRAINING)
