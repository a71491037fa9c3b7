"""The service under load, beside an MLflow tracking server: `python -m bench.service [--json FILE] [--mlflow PYTHON]`.

One machine holds everything: Postgres, Valkey, the API with 10,000 jobs and a million steps of metrics, and the load.
PYTHON is the interpreter of an environment with `mlflow` and `psycopg2`: its server has the same Postgres, as many runs
as we have jobs, as many points, its own default number of processes, and the same load. Without it the service is
measured alone.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from app.core import migrate
from app.core.db import Database
from app.core.jobs.journal import Journal
from app.core.jobs.leases import Claim
from app.core.spec.reports import Message, Metrics
from app.local.postgres import EmbeddedPostgres
from app.local.process import Child, ChildSpec
from app.local.stack import claim_port
from app.local.valkey import EmbeddedValkey
from bench import peer_mlflow
from bench.peer_mlflow import Target
from bench.seed import NAMES, Seeded, seed

ROOT: Final = Path(__file__).resolve().parents[1]
JOBS: Final = 10_000
RUNNING: Final = 200
TELLING: Final = 50
"""Running jobs that are followed."""
PROCESSES: Final = 2
"""Of the API, as docker/compose.yaml has it."""
POLLERS: Final = 1_000
FOLLOWERS: Final = 1_000
CLIENTS: Final = 16
"""Of those who ask again as soon as they have an answer."""
UPLOAD_BYTES: Final = 200 * 1024**2
BATCH: Final = 100
"""Steps a write of the journal."""
READY_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    name: str
    value: float
    unit: str
    bar: float
    errors: int = 0
    more_is_better: bool = False
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether it reaches the bar without an error."""
        good = self.value >= self.bar if self.more_is_better else self.value <= self.bar
        return good and self.errors == 0


class Api:
    """The API of one installation and what lies behind it."""

    def __init__(self, url: str, pid: int, database: Database, seeded: Seeded) -> None:
        self.url, self.pid, self.database, self.seeded = url, pid, database, seeded
        self.headers = {"authorization": f"Bearer {seeded.api_key}"}

    def load(self, way: str, targets: list[Target], *, clients: int, seconds: float) -> dict[str, Any]:
        """What `bench.load` measured."""
        return run_load(self.url, self.headers, way, targets, clients=clients, seconds=seconds)

    def retrieve(self) -> list[Target]:
        return [{"path": f"/v1/fine_tuning/jobs/{job}"} for job in self.seeded.jobs]

    def page(self) -> list[Target]:
        after = self.seeded.jobs[:: JOBS // 100]
        first: Target = {"path": "/v1/fine_tuning/jobs"}
        return [first, *[Target(path=f"{first['path']}?after={job}") for job in after]]

    def chart(self) -> list[Target]:
        path = f"/v1/fine_tuning/jobs/{self.seeded.long_job}/metrics?points=1500&names="
        return [{"path": path + name} for name in ("loss", "reward", "entropy", "grad_norm")]


def run_load(
    url: str, headers: dict[str, str], way: str, targets: list[Target], *, clients: int, seconds: float
) -> dict[str, Any]:
    """Runs the load generator in a process of its own."""
    spec = {"url": url, "headers": headers, "way": way, "targets": targets, "clients": clients, "seconds": seconds}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:  # too long for a command line
        json.dump(spec, file)
        file.flush()
        command = [sys.executable, "-m", "bench.load", file.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the load generator failed:\n{done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def percentile(values: list[float], share: int) -> float:
    """The `share`-th percentile."""
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def polled(api: Api, seconds: int) -> Result:
    """A thousand who ask once a second for their job, which waits or runs."""
    targets: list[Target] = [{"path": f"/v1/fine_tuning/jobs/{job}"} for job in api.seeded.unfinished[:POLLERS]]
    found = api.load("poll", targets, clients=POLLERS, seconds=seconds)
    name = f"retrieve a job, {POLLERS:,} pollers at 1 Hz, p95"
    note = f"p50 {percentile(found['milliseconds'], 50):.0f} ms, {len(found['milliseconds']):,} requests"
    if found["errors"]:
        note += f"; {found['first_error']}"
    return Result(name, percentile(found["milliseconds"], 95), "ms", 250, found["errors"], note=note)


def asked(api: Api, name: str, targets: list[Target], bar: float, seconds: int) -> Result:
    """One client that asks again and again."""
    found = api.load("saturate", targets, clients=1, seconds=seconds)
    note = f"p50 {percentile(found['milliseconds'], 50):.0f} ms"
    return Result(name, percentile(found["milliseconds"], 95), "ms", bar, found["errors"], note=note)


def ingested(api: Api, seconds: int) -> Result:
    """The journal of one attempt, fed as fast as it takes."""
    journal = Journal(api.database, api.seeded.running[0])
    step, written, begun = 1_000, 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        batch = [
            Metrics(step=step + one, values=dict.fromkeys(NAMES, (step + one) * 0.001), trained_tokens=step)
            for one in range(BATCH)
        ]
        journal.metrics(batch)
        step, written = step + BATCH, written + BATCH * len(NAMES)
    rate = written / (time.perf_counter() - begun)
    return Result("metric points a second through the journal", rate, "/s", 100_000, more_is_better=True)


def followed(api: Api, seconds: int) -> Result:
    """A thousand streams of fifty jobs, each of which tells something every second."""
    told = api.seeded.running[-TELLING:]  # not the first one: `ingested` gave it a long history to read
    targets = [{"path": f"/v1/fine_tuning/jobs/{job}/stream"} for job in (claim.job_id for claim in told)]
    spec = {"url": api.url, "headers": api.headers, "way": "follow", "targets": targets, "clients": FOLLOWERS}
    spec["events"] = seconds * FOLLOWERS
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(spec, file)
        file.flush()
        command = [sys.executable, "-m", "bench.load", file.name]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            if process.stdout is None or process.stdout.readline().strip() != "ready":
                sys.exit("the streams did not open")
            _tell(api, told, seconds)
            output, _ = process.communicate("")
    found = json.loads(output)
    missing = seconds * FOLLOWERS - len(found["milliseconds"])
    note = f"p50 {percentile(found['milliseconds'], 50):.0f} ms, {len(found['milliseconds']):,} events"
    return Result(
        f"server-sent events, {FOLLOWERS:,} clients, p99",
        percentile(found["milliseconds"], 99),
        "ms",
        100,
        missing,
        note=note,
    )


def _tell(api: Api, claims: list[Claim], seconds: int) -> None:
    begun = time.perf_counter()
    journals = [Journal(api.database, claim) for claim in claims]
    for turn in range(seconds * TELLING):  # evenly over the time: the pace is what is asked for
        time.sleep(max(0.0, begun + turn / TELLING - time.perf_counter()))
        journals[turn % TELLING].message(Message(message="told", data={"sent": time.time()}))


def uploaded(api: Api) -> Result:
    """How much memory the API takes for a large upload."""
    line = json.dumps({"prompt": "x" * 500, "completion": "y" * 500}).encode() + b"\n"
    before = _peak_mib(api.pid, reset=True)
    with httpx.Client(base_url=api.url, headers=api.headers, timeout=120) as client, tempfile.TemporaryFile() as file:
        file.write(line * (UPLOAD_BYTES // len(line)))
        file.seek(0)
        client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": file}).raise_for_status()
    grown = _peak_mib(api.pid) - before
    return Result("memory over a 200 MB upload", grown, "MiB", 32)


def _peak_mib(pid: int, *, reset: bool = False) -> float:
    """Of a process and its children, since the last reset."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0.0
    for one in (str(pid), *children):
        if reset:
            Path(f"/proc/{one}/clear_refs").write_text("5")
        status = Path(f"/proc/{one}/status").read_text()
        total += int(status.split("VmHWM:")[1].split()[0]) / 1024
    return total


@contextmanager
def installation(console: Console, directory: Path) -> Iterator[tuple[Api, EmbeddedPostgres]]:
    """Engines, data and the API, without workers, who would take the jobs."""
    with ExitStack() as running:
        postgres = running.enter_context(EmbeddedPostgres(directory / "pg"))
        valkey = running.enter_context(EmbeddedValkey(directory / "valkey"))
        migrate.upgrade(postgres.url)
        database = Database(postgres.url)
        running.callback(database.dispose)
        with console.status("Filling the database") as status:
            seeded = seed(database, JOBS, RUNNING, lambda what: status.update(f"Filling the database: {what}"))
        port = claim_port("127.0.0.1", 0)
        url = f"http://127.0.0.1:{port}"
        environment = os.environ | {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "GROUPTUNE_STATE_DIR": str(directory / "state"),
        }
        options = ("--factory", "app.main:create_app", "--port", str(port), "--no-access-log", "--log-level", "warning")
        argv = (sys.executable, "-m", "uvicorn", *options, "--workers", str(PROCESSES))
        pid = running.enter_context(child("api", argv, environment, directory))
        await_ready(f"{url}/readyz")
        await_quiet()
        yield Api(url, pid, database, seeded), postgres


@contextmanager
def child(name: str, argv: tuple[str, ...], environment: dict[str, str], directory: Path) -> Iterator[int]:
    """A process that ends with the block; yields its pid."""
    process = Child(ChildSpec(name=name, argv=argv, env=environment, log_path=directory / f"{name}.log"))
    try:
        yield process.pid
    finally:
        process.stop()


def await_ready(url: str) -> None:
    """Waits until a GET is answered with 200."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        try:
            if httpx.get(url, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)  # another process, which tells nobody when it listens
    sys.exit(f"{url} is not ready")


def await_quiet() -> None:
    """Waits until a server that has just started, and Postgres after much writing, are done with their own work.

    That is until a second in which the processors are idle for nine tenths; for a minute at most.
    """
    for _ in range(60):
        before = _processor_ticks()
        time.sleep(1.0)  # the second that is looked at
        idle, all_of_it = (now - then for now, then in zip(_processor_ticks(), before, strict=True))
        if idle >= 0.9 * all_of_it:
            return


def _processor_ticks() -> tuple[int, int]:
    """Idle ones and all, since the machine started."""
    ticks = [int(one) for one in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return ticks[3], sum(ticks)


def show(result: Result, console: Console) -> None:
    """One line of the table."""
    sign = ">=" if result.more_is_better else "<="
    verdict = "ok" if result.holds else "MISSED"
    verdict += f", {result.errors} errors" if result.errors else ""
    line = f"  {result.name:52s} {result.value:10,.0f} {result.unit:4s} ({sign} {result.bar:,.0f}: {verdict})"
    console.print(f"{line}  {result.note}", highlight=False)


def compare(
    api: Api, postgres: EmbeddedPostgres, python: str, directory: Path, seconds: int, console: Console
) -> list[dict[str, Any]]:
    """The same reads and writes on one after the other, each as fast as it can, the machine its own."""
    with console.status("Filling MLflow's database"):
        peer = peer_mlflow.prepare(postgres.url, python, jobs=JOBS, points=1_000_000)
    reads = {
        "retrieve a job": (api.retrieve(), peer.retrieve),
        "list 20 jobs": (api.page(), peer.page),
        "chart of 1,000,000 points": (api.chart(), peer.chart),
    }
    rows: dict[str, dict[str, Any]] = {}
    await_quiet()
    for name, (ours, _) in reads.items():
        with console.status(f"{name}, Grouptune"):
            found = api.load("saturate", ours, clients=CLIENTS, seconds=seconds)
        rows[name] = {"ours": len(found["milliseconds"]) / found["seconds"], "errors": [found["errors"]]}
    with console.status("write metric points, Grouptune"):
        rows["write metric points"] = {"ours": ingested(api, seconds).value, "errors": [0]}
    # Only now: it and its helpers are busy with their start for long after it has said that it is ready.
    port = claim_port("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    command = peer_mlflow.command(python, peer, port)
    with child("mlflow", command, dict(os.environ) | peer_mlflow.ENVIRONMENT, directory):
        await_ready(f"{url}/health")
        await_quiet()
        for name in rows:
            targets = reads[name][1] if name in reads else peer.write
            with console.status(f"{name}, MLflow"):
                found = run_load(url, {}, "saturate", targets, clients=CLIENTS, seconds=seconds)
            points = 1 if name in reads else peer_mlflow.BATCH
            rows[name]["mlflow"] = len(found["milliseconds"]) * points / found["seconds"]
            rows[name]["errors"].append(found["errors"])
    return [{"case": name} | row for name, row in rows.items()]


def main() -> None:
    """Measures, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--mlflow", metavar="PYTHON")
    parser.add_argument("--seconds", type=int, default=15, help="of each case")
    parser.add_argument("--only", help="cases whose name contains this")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    console = Console()
    with tempfile.TemporaryDirectory(prefix="gt-") as name:
        directory = Path(name)
        directory.chmod(0o711)  # a Postgres that root starts runs as another user
        with installation(console, directory) as (api, postgres):
            cases: dict[str, Callable[[], Result]] = {
                "poll": lambda: polled(api, options.seconds),
                "list": lambda: asked(api, f"list of {JOBS:,} jobs, p95", api.page(), 100, options.seconds // 3),
                "chart": lambda: asked(api, "chart of 1,000,000 points, p95", api.chart(), 150, options.seconds // 3),
                "ingest": lambda: ingested(api, options.seconds),
                "sse": lambda: followed(api, options.seconds),
                "upload": lambda: uploaded(api),
            }
            results = []
            for key, case in cases.items():
                if options.only is None or options.only in key:
                    with console.status(key):
                        results.append(case())
                    show(results[-1], console)
            rows = []
            if options.mlflow:
                rows = compare(api, postgres, options.mlflow, directory, options.seconds, console)
                for row in rows:
                    ratio = row["ours"] / row["mlflow"] if row["mlflow"] else float("inf")
                    console.print(
                        f"  {row['case']:28s} {row['ours']:10,.0f}/s   MLflow {row['mlflow']:8,.0f}/s   {ratio:5.1f}x",
                        highlight=False,
                    )
    if options.json:
        cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        report = {
            "machine": f"{os.cpu_count()} x {cpu[0].partition(': ')[2] if cpu else platform.machine()}",
            "versions": {name: version(name) for name in ("fastapi", "uvicorn", "sqlalchemy", "psycopg")},
            "results": [vars(result) | {"holds": result.holds} for result in results],
            "beside_mlflow": rows,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
