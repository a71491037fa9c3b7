"""Measures the service under load: `python -m bench.service [--json FILE] [--mlflow PYTHON]`.

One machine runs everything: Postgres, Valkey, the API with 10,000 jobs and a million steps of metrics, and the load
generator. PYTHON is the interpreter of an environment with `mlflow` and `psycopg2`. With it, an MLflow tracking server
is measured for comparison, on the same Postgres, with as many runs as there are jobs, as many points, MLflow's default
number of processes, and the same load.
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
from app.local.ports import claim_port
from app.local.postgres import EmbeddedPostgres
from app.local.process import Child, ChildSpec
from app.local.valkey import EmbeddedValkey
from bench import peer_mlflow
from bench.peer_mlflow import Target
from bench.seed import NAMES, SeededData, seed

ROOT: Final = Path(__file__).resolve().parents[1]
JOBS: Final = 10_000
RUNNING: Final = 200
STREAMED_JOBS: Final = 50
"""Number of running jobs whose streams are read."""
PROCESSES: Final = 2
"""Number of API processes, as in docker/compose.yaml."""
POLLERS: Final = 1_000
STREAMS: Final = 1_000
CLIENTS: Final = 16
"""Number of clients that send the next request as soon as they have a response."""
UPLOAD_BYTES: Final = 200 * 1024**2
BATCH: Final = 100
"""Steps per write of the journal."""
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
        """Whether the value reaches the goal without errors."""
        reached = self.value >= self.bar if self.more_is_better else self.value <= self.bar
        return reached and self.errors == 0


class Api:
    """The API of one installation, with its database and seeded data."""

    def __init__(self, url: str, pid: int, database: Database, seeded: SeededData) -> None:
        self.url, self.pid, self.database, self.seeded = url, pid, database, seeded
        self.headers = {"authorization": f"Bearer {seeded.api_key}"}

    def load(self, mode: str, targets: list[Target], *, clients: int, seconds: float) -> dict[str, Any]:
        """Run `bench.load` and return its measurements."""
        return run_load(self.url, self.headers, mode, targets, clients=clients, seconds=seconds)

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
    url: str, headers: dict[str, str], mode: str, targets: list[Target], *, clients: int, seconds: float
) -> dict[str, Any]:
    """Run the load generator in a separate process and return its measurements."""
    spec = {"url": url, "headers": headers, "mode": mode, "targets": targets, "clients": clients, "seconds": seconds}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:  # too long for a command line
        json.dump(spec, file)
        file.flush()
        command = [sys.executable, "-m", "bench.load", file.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The load generator failed:\n{done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def percentile(values: list[float], share: int) -> float:
    """Return the `share`-th percentile."""
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def measure_polling(api: Api, seconds: int) -> Result:
    """Let a thousand clients each retrieve a queued or running job once a second."""
    targets: list[Target] = [{"path": f"/v1/fine_tuning/jobs/{job}"} for job in api.seeded.unfinished[:POLLERS]]
    measured = api.load("poll", targets, clients=POLLERS, seconds=seconds)
    name = f"retrieve a job, {POLLERS:,} pollers at 1 Hz, p95"
    note = f"p50 {percentile(measured['milliseconds'], 50):.0f} ms, {len(measured['milliseconds']):,} requests"
    if measured["errors"]:
        note += f"; {measured['first_error']}"
    return Result(name, percentile(measured["milliseconds"], 95), "ms", 250, measured["errors"], note=note)


def measure_reads(api: Api, name: str, targets: list[Target], bar: float, seconds: int) -> Result:
    """Let one client send requests back to back."""
    measured = api.load("saturate", targets, clients=1, seconds=seconds)
    note = f"p50 {percentile(measured['milliseconds'], 50):.0f} ms"
    return Result(name, percentile(measured["milliseconds"], 95), "ms", bar, measured["errors"], note=note)


def measure_ingest(api: Api, seconds: int) -> Result:
    """Write metrics through the journal of one attempt as fast as possible."""
    journal = Journal(api.database, api.seeded.running[0])
    step, written, begun = 1_000, 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        batch = [
            Metrics(step=step + offset, values=dict.fromkeys(NAMES, (step + offset) * 0.001), trained_tokens=step)
            for offset in range(BATCH)
        ]
        journal.metrics(batch)
        step, written = step + BATCH, written + BATCH * len(NAMES)
    rate = written / (time.perf_counter() - begun)
    return Result("metric points a second through the journal", rate, "/s", 100_000, more_is_better=True)


def measure_streams(api: Api, seconds: int) -> Result:
    """Read a thousand streams of fifty jobs, each of which writes one event per second."""
    claims = api.seeded.running[-STREAMED_JOBS:]  # not the first one: `measure_ingest` gave it a long history
    targets = [{"path": f"/v1/fine_tuning/jobs/{job}/stream"} for job in (claim.job_id for claim in claims)]
    spec = {"url": api.url, "headers": api.headers, "mode": "follow", "targets": targets, "clients": STREAMS}
    spec["events"] = seconds * STREAMS
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(spec, file)
        file.flush()
        command = [sys.executable, "-m", "bench.load", file.name]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            if process.stdout is None or process.stdout.readline().strip() != "ready":
                sys.exit("The streams did not open.")
            _write_events(api, claims, seconds)
            output, _ = process.communicate("")
    measured = json.loads(output)
    missing = seconds * STREAMS - len(measured["milliseconds"])
    note = f"p50 {percentile(measured['milliseconds'], 50):.0f} ms, {len(measured['milliseconds']):,} events"
    return Result(
        f"server-sent events, {STREAMS:,} clients, p99",
        percentile(measured["milliseconds"], 99),
        "ms",
        100,
        missing,
        note=note,
    )


def _write_events(api: Api, claims: list[Claim], seconds: int) -> None:
    begun = time.perf_counter()
    journals = [Journal(api.database, claim) for claim in claims]
    for turn in range(seconds * STREAMED_JOBS):  # spread evenly, at the pace of the case
        time.sleep(max(0.0, begun + turn / STREAMED_JOBS - time.perf_counter()))
        journals[turn % STREAMED_JOBS].message(Message(message="event", data={"sent": time.time()}))


def measure_upload(api: Api) -> Result:
    """Measure how much the API's memory grows during a large upload."""
    line = json.dumps({"prompt": "x" * 500, "completion": "y" * 500}).encode() + b"\n"
    before = _peak_mib(api.pid, reset=True)
    with httpx.Client(base_url=api.url, headers=api.headers, timeout=120) as client, tempfile.TemporaryFile() as file:
        file.write(line * (UPLOAD_BYTES // len(line)))
        file.seek(0)
        client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": file}).raise_for_status()
    grown = _peak_mib(api.pid) - before
    return Result("memory over a 200 MB upload", grown, "MiB", 32)


def _peak_mib(pid: int, *, reset: bool = False) -> float:
    """Return the peak memory of a process and its children since the last reset."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0.0
    for process in (str(pid), *children):
        if reset:
            Path(f"/proc/{process}/clear_refs").write_text("5")
        status = Path(f"/proc/{process}/status").read_text()
        total += int(status.split("VmHWM:")[1].split()[0]) / 1024
    return total


@contextmanager
def installation(console: Console, directory: Path) -> Iterator[tuple[Api, EmbeddedPostgres]]:
    """Run the engines and the API on seeded data. No workers, because they would take the jobs."""
    with ExitStack() as running:
        postgres = running.enter_context(EmbeddedPostgres(directory / "pg"))
        valkey = running.enter_context(EmbeddedValkey(directory / "valkey"))
        migrate.upgrade(postgres.url)
        database = Database(postgres.url)
        running.callback(database.dispose)
        with console.status("Filling the database") as status:
            seeded = seed(database, JOBS, RUNNING, lambda text: status.update(f"Filling the database: {text}"))
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
    """Run a process for the duration of the block; yield its pid."""
    process = Child(ChildSpec(name=name, argv=argv, env=environment, log_path=directory / f"{name}.log"))
    try:
        yield process.pid
    finally:
        process.stop()


def await_ready(url: str) -> None:
    """Wait until a GET returns 200."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        try:
            if httpx.get(url, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)  # another process, which does not report when it listens
    sys.exit(f"{url} did not become ready in {READY_SECONDS:.0f} s.")


def await_quiet() -> None:
    """Wait until a new server, and Postgres after many writes, have finished their background work.

    That is: until the processors are at least 90 % idle for one second, and for a minute at most.
    """
    for _ in range(60):
        before = _processor_ticks()
        time.sleep(1.0)  # the measured second
        idle, total = (now - then for now, then in zip(_processor_ticks(), before, strict=True))
        if idle >= 0.9 * total:
            return


def _processor_ticks() -> tuple[int, int]:
    """Return the idle ticks and all ticks since boot."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return ticks[3], sum(ticks)


def show(result: Result, console: Console) -> None:
    """Print one line of the table."""
    sign = ">=" if result.more_is_better else "<="
    verdict = "ok" if result.holds else "MISSED"
    verdict += f", {result.errors} errors" if result.errors else ""
    line = f"  {result.name:52s} {result.value:10,.0f} {result.unit:4s} ({sign} {result.bar:,.0f}: {verdict})"
    console.print(f"{line}  {result.note}", highlight=False)


def compare(
    api: Api, postgres: EmbeddedPostgres, python: str, directory: Path, seconds: int, console: Console
) -> list[dict[str, Any]]:
    """Run the same reads and writes as fast as possible, first on Grouptune and then, alone, on MLflow."""
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
            measured = api.load("saturate", ours, clients=CLIENTS, seconds=seconds)
        rows[name] = {"ours": len(measured["milliseconds"]) / measured["seconds"], "errors": [measured["errors"]]}
    with console.status("write metric points, Grouptune"):
        rows["write metric points"] = {"ours": measure_ingest(api, seconds).value, "errors": [0]}
    # MLflow starts only now, because it stays busy with its start-up long after it reports that it is ready.
    port = claim_port("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    command = peer_mlflow.command(python, peer, port)
    with child("mlflow", command, dict(os.environ) | peer_mlflow.ENVIRONMENT, directory):
        await_ready(f"{url}/health")
        await_quiet()
        for name in rows:
            targets = reads[name][1] if name in reads else peer.write
            with console.status(f"{name}, MLflow"):
                measured = run_load(url, {}, "saturate", targets, clients=CLIENTS, seconds=seconds)
            points = 1 if name in reads else peer_mlflow.BATCH
            rows[name]["mlflow"] = len(measured["milliseconds"]) * points / measured["seconds"]
            rows[name]["errors"].append(measured["errors"])
    return [{"case": name} | row for name, row in rows.items()]


def main() -> None:
    """Run the benchmark, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--mlflow", metavar="PYTHON")
    parser.add_argument("--seconds", type=int, default=15, help="duration of each case (default: %(default)s)")
    parser.add_argument("--only", help="run only cases whose name contains this text")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    console = Console()
    with tempfile.TemporaryDirectory(prefix="gt-") as name:
        directory = Path(name)
        directory.chmod(0o711)  # if root starts Postgres, it runs as another user
        with installation(console, directory) as (api, postgres):
            cases: dict[str, Callable[[], Result]] = {
                "poll": lambda: measure_polling(api, options.seconds),
                "list": lambda: measure_reads(
                    api, f"list of {JOBS:,} jobs, p95", api.page(), 100, options.seconds // 3
                ),
                "chart": lambda: measure_reads(
                    api, "chart of 1,000,000 points, p95", api.chart(), 150, options.seconds // 3
                ),
                "ingest": lambda: measure_ingest(api, options.seconds),
                "sse": lambda: measure_streams(api, options.seconds),
                "upload": lambda: measure_upload(api),
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
            "compared_with_mlflow": rows,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
