"""Attacks a running API with one key and measures what others notice: `python -m bench.attacks [--json FILE]`.

One machine runs everything: Postgres, Valkey, one API process, the attackers, and the clients of another project whose
latencies are measured. `--model DIRECTORY` is the base model whose tokenizer renders the rows of previews.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from sqlalchemy import text

from app.core import migrate
from app.core.accounts import api_keys, scopes
from app.core.accounts.tables import Project
from app.core.db import Database
from app.core.secrets import new_key
from app.core.storage.local import LocalBlobStore
from app.local.ports import claim_port
from app.local.postgres import EmbeddedPostgres
from app.local.valkey import EmbeddedValkey
from bench.seed import seed_jobs
from bench.service import ROOT, await_ready, child, percentile
from bench.train import machine
from worker.file_validation import validate_one

JOBS: Final = 100
POLLERS: Final = 10
"""Clients of the other project that each retrieve a job once a second, and as many that request `/healthz`."""
RETRIEVE_MS, HEALTHZ_MS, RSS_MB = 250, 100, 600
"""The goals: p95, p95, and the peak of the API process."""
BODY_PAUSE: Final = 1.0
"""Seconds between two large bodies of a client: together some 50 to 100 MB/s."""
MEMBERS: Final = 550_000
LONG_ROWS, LONG_ROW_BYTES = 20, 900_000
REGEX: Final = {
    "grader": {"type": "regex", "pattern": "(a+)+$", "name": "slow", "input": "{{sample.output_text}}"},
    "model_sample": "a" * 40 + "!",
    "item": {},
}
"""Takes forever; the grader's limit is 20 s."""


@dataclass(frozen=True)
class Attack:
    """What the attackers send."""

    clients: int
    requests: list[dict[str, Any]]
    patience: float = 60.0
    """Seconds after which a client hangs up."""
    pause: float = 0.05
    """Seconds between two requests of a client."""


@dataclass
class Outcome:
    """What the others noticed of an attack."""

    attack: str
    retrieve_p95_ms: float
    retrieve_errors: int
    healthz_p95_ms: float
    healthz_errors: int
    rss_mb: float
    attackers: dict[str, int] = field(default_factory=dict)
    """Number of requests by status, `hung up` and `no response`."""

    @property
    def holds(self) -> bool:
        """Whether all goals are reached."""
        return (
            self.retrieve_p95_ms < RETRIEVE_MS
            and self.healthz_p95_ms < HEALTHZ_MS
            and self.rss_mb < RSS_MB
            and not self.retrieve_errors + self.healthz_errors
        )


@dataclass(frozen=True)
class Target:
    """The API under attack."""

    url: str
    pid: int
    jobs: list[str]
    victim: str
    """The key of the other project."""
    attacker: str
    long_file: str
    silent_url: str
    directory: Path

    def post(self, path: str, **parts: Any) -> dict[str, Any]:
        """Return a POST with the attacker's key."""
        headers = {"authorization": f"Bearer {self.attacker}"} | parts.pop("headers", {})
        return {"method": "POST", "path": f"/v1{path}", "headers": headers} | parts

    def get(self, path: str, *, with_key: bool = True) -> dict[str, Any]:
        """Return a GET."""
        headers = {"authorization": f"Bearer {self.attacker}"} if with_key else {}
        return {"method": "GET", "path": path, "headers": headers}


def attacks(target: Target) -> dict[str, Attack]:
    """Return the attacks by name, the first one being none at all."""
    run = "/fine_tuning/alpha/graders/run"
    members = target.directory / "members.json"
    members.write_text("{" + ",".join(f'"{number:07}":1' for number in range(MEMBERS)) + "}")
    large = target.directory / "large.json"
    large.write_text(json.dumps({"model": "x", "training_file": "file-x", "suffix": "y" * 8_000_000}))
    endpoint = {"type": "endpoint", "url": target.silent_url, "timeout_seconds": 120, "name": "silent"}
    webhook = _webhook(target)
    anonymous = {"headers": {"authorization": ""}}
    return {
        "none": Attack(0, []),
        "bodies without a key": Attack(
            6, [target.post("/oidc/exchange", body_file=str(members), **anonymous)], pause=BODY_PAUSE
        ),
        "bodies of 550,000 members": Attack(
            6, [target.post("/fine_tuning/jobs", body_file=str(members))], pause=BODY_PAUSE
        ),
        "bodies of 8 MB": Attack(12, [target.post("/fine_tuning/jobs", body_file=str(large))], pause=BODY_PAUSE),
        "regex graders": Attack(60, [target.post(run, body=REGEX)]),
        "silent reward server": Attack(45, [target.post(run, body=REGEX | {"grader": endpoint})], patience=5),
        "silent webhook endpoint": Attack(45, [target.post(webhook, body={"event_type": "fine_tuning.job.failed"})]),
        "previews of rows of 0.9 MB": Attack(30, [target.get(f"/v1/files/{target.long_file}/preview?limit=20")]),
        "lints of a long file": Attack(
            30, [target.post(f"/files/{target.long_file}/lint", body={"grader": REGEX["grader"]})]
        ),
        "replays": Attack(
            20, [target.post("/fine_tuning/jobs/validate", body={}, headers={"idempotency-key": "done"})]
        ),
        "replays of a running request": Attack(
            20, [target.post(run, body=REGEX, headers={"idempotency-key": "again"})], patience=5
        ),
        "readyz without a key": Attack(40, [target.get("/readyz", with_key=False)]),
        "ids with a NUL": Attack(4, [target.get("/v1/fine_tuning/jobs/%00")]),
    }


def _webhook(target: Target) -> str:
    body = {"name": "silent", "url": target.silent_url, "event_types": ["fine_tuning.job.failed"]}
    headers = {"authorization": f"Bearer {target.attacker}"}
    made = httpx.post(f"{target.url}/v1/webhook_endpoints", json=body, headers=headers, trust_env=False)
    return f"/webhook_endpoints/{made.raise_for_status().json()['id']}/test"


def measure(name: str, attack: Attack, target: Target, seconds: int) -> Outcome:
    """Run an attack while clients of the other project are measured."""
    Path(f"/proc/{target.pid}/clear_refs").write_text("5")  # resets the peak
    headers = {"authorization": f"Bearer {target.victim}"}
    retrieve = [{"path": f"/v1/fine_tuning/jobs/{job}"} for job in target.jobs]
    poll = {"url": target.url, "mode": "poll", "clients": POLLERS, "seconds": seconds}
    with ExitStack() as running:
        attackers = None
        if attack.clients:
            spec = {"url": target.url, "seconds": seconds + 1} | asdict(attack)
            attackers = running.enter_context(_started("bench.attackers", spec, target.directory))
        retrieves = running.enter_context(
            _started("bench.load", poll | {"headers": headers, "targets": retrieve}, target.directory)
        )
        health = running.enter_context(
            _started("bench.load", poll | {"headers": {}, "targets": [{"path": "/healthz"}]}, target.directory)
        )
        measured, healthy = _result(retrieves), _result(health)
        received = {} if attackers is None else _result(attackers)
    status = Path(f"/proc/{target.pid}/status").read_text()
    return Outcome(
        name,
        percentile(measured["milliseconds"], 95),
        measured["errors"],
        percentile(healthy["milliseconds"], 95),
        healthy["errors"],
        int(status.split("VmHWM:")[1].split()[0]) / 1e3,
        received,
    )


@contextmanager
def _started(module: str, spec: dict[str, Any], directory: Path) -> Iterator[subprocess.Popen[str]]:
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=directory) as file:
        json.dump(spec, file)
        file.flush()
        command = [sys.executable, "-m", module, file.name]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


def _result(process: subprocess.Popen[str]) -> Any:
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{process.args!r} failed.")
    return json.loads(output)


@contextmanager
def silent_server() -> Iterator[str]:
    """Accept connections and never answer; yield the URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=1_024) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=hold, args=(connection,), daemon=True).start()

        def hold(connection: socket.socket) -> None:
            with connection:
                while connection.recv(65_536):
                    pass

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def target_api(directory: Path, model: Path) -> Iterator[Target]:
    """Run the engines and one API process with two projects."""
    with ExitStack() as running:
        postgres = running.enter_context(EmbeddedPostgres(directory / "pg"))
        valkey = running.enter_context(EmbeddedValkey(directory / "valkey"))
        migrate.upgrade(postgres.url)
        database = Database(postgres.url)
        running.callback(database.dispose)
        victim = seed_jobs(database, JOBS)
        with database.transaction() as session:
            jobs = list(session.scalars(text("SELECT id FROM jobs")))
            session.add(Project(id="proj_attacker", name="attacker"))
            session.flush()
            attacker = api_keys.create_key(session, "proj_attacker", "attacker", granted=scopes.DEFAULT).text
        (directory / "models").mkdir()
        (directory / "models" / model.name).symlink_to(model.resolve())
        port = claim_port("127.0.0.1", 0)
        url, state = f"http://127.0.0.1:{port}", directory / "state"
        environment = os.environ | {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "GROUPTUNE_STATE_DIR": str(state),
            "GROUPTUNE_MODELS_DIR": str(directory / "models"),
            "GROUPTUNE_ALLOWED_PRIVATE_HOSTS": "127.0.0.1",
            "GROUPTUNE_SECRET_KEYS_FILE": str(directory / "secret"),
        }
        options = ("--factory", "app.main:create_app", "--port", str(port), "--no-access-log", "--log-level", "warning")
        (directory / "secret").write_text(new_key())
        argv = (sys.executable, "-m", "uvicorn", *options)
        pid = running.enter_context(child("api", argv, environment, directory))
        await_ready(f"{url}/readyz")
        silent = running.enter_context(silent_server())
        long_file = upload_long_rows(url, attacker)
        while validate_one(database, LocalBlobStore(state / "storage")):
            pass
        yield Target(url, pid, jobs, victim, attacker, long_file, silent, directory)


def upload_long_rows(url: str, key: str) -> str:
    """Upload the file that previews and lints read; return its id."""
    answer = "A sentence of words, as in a long document. " * (LONG_ROW_BYTES // 44)
    rows = "".join(json.dumps({"prompt": str(n), "completion": answer}) + "\n" for n in range(LONG_ROWS))
    made = httpx.post(
        f"{url}/v1/files",
        data={"purpose": "fine-tune"},
        files={"file": ("rows.jsonl", rows)},
        headers={"authorization": f"Bearer {key}"},
        timeout=120,
        trust_env=False,
    )
    return str(made.raise_for_status().json()["id"])


def main() -> None:
    """Run the attacks, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=int, default=60, help="duration of each attack (default: %(default)s)")
    parser.add_argument("--only", default="", help="run only attacks whose name contains this text")
    parser.add_argument("--model", type=Path, required=True, metavar="DIRECTORY")
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="gt-") as name:
        directory = Path(name)
        directory.chmod(0o711)  # if root starts Postgres, it runs as another user
        with target_api(directory, options.model) as target:
            for attack_name, attack in attacks(target).items():
                if options.only not in attack_name:
                    continue
                outcome = measure(attack_name, attack, target, options.seconds)
                outcomes.append(outcome)
                print(show(outcome), flush=True)
    if options.json:
        report = {
            "machine": machine(("fastapi", "uvicorn", "tokenizers")),
            "seconds": options.seconds,
            "model": options.model.name,
        }
        report["results"] = [asdict(outcome) | {"holds": outcome.holds} for outcome in outcomes]
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def show(outcome: Outcome) -> str:
    """Return one row of the table, in Markdown."""
    received = ", ".join(f"{count:,} x {status}" for status, count in sorted(outcome.attackers.items()))
    errors = outcome.retrieve_errors + outcome.healthz_errors
    return (
        f"| {outcome.attack} | {outcome.retrieve_p95_ms:,.0f} ms | {outcome.healthz_p95_ms:,.0f} ms | {errors} "
        f"| {outcome.rss_mb:,.0f} MB | {received or '-'} |"
    )


if __name__ == "__main__":
    main()
