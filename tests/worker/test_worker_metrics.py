"""The metrics that workers count, and the port that serves them."""

import json
import re
import socket
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from app.core import prometheus
from app.core.jobs import leases
from app.core.jobs.journal import Journal
from app.core.jobs.state_machine import JobStatus
from app.core.prometheus import API, WORKER, Backlog, exposition
from tests.http_server import free_port
from tests.waiting import eventually
from tests.worker.conftest import Bench, Plant
from worker.child_process import ChildProcess
from worker.process_control import ProcessControl
from worker.report_writer import ReportWriter

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana" / "grouptune.json"


def value(name: str, **labels: str) -> float:
    return WORKER.get_sample_value(name, labels) or 0.0


def test_attempts_are_counted_by_outcome(bench: Bench) -> None:
    before = {outcome: value("grouptune_attempts_total", outcome=outcome) for outcome in ("crashed", "succeeded")}
    bench.run("crash:4")
    bench.run("train:6")
    assert value("grouptune_attempts_total", outcome="crashed") == before["crashed"] + 1
    assert value("grouptune_attempts_total", outcome="succeeded") == before["succeeded"] + 1


def test_grader_errors_and_step_times_are_counted(bench: Bench, tmp_path: Path) -> None:
    def counted() -> tuple[float, float]:
        return value("grouptune_grader_errors_total"), value("grouptune_step_seconds_sum", method="supervised")

    with bench.database.transaction() as session:
        claim = leases.claim(session, "test", 60)
    assert claim is not None
    writer = ReportWriter(Journal(bench.database, claim), bench.store, claim, ProcessControl(1.0), lambda _: None)
    report = {"kind": "metrics", "step": 1, "values": {"step_time": 0.5, "gft/grader_errors": 3.0}, "trained_tokens": 1}
    errors, seconds = counted()
    writer.read(
        ChildProcess((sys.executable, "-c", "import sys; print(sys.argv[1])", json.dumps(report)), tmp_path / "log")
    )
    writer.run()
    assert counted() == (errors + 3, seconds + 0.5)


def test_lost_lease_is_counted(bench: Bench) -> None:
    before = value("grouptune_lease_losses_total", seen_by="runner")
    attempts = value("grouptune_attempts_total", outcome="lost_lease")
    running = bench.start("until_stopped")
    with bench.database.transaction() as session:
        session.execute(text("UPDATE jobs SET epoch = epoch + 1"))
    running.join(60)
    assert value("grouptune_lease_losses_total", seen_by="runner") == before + 1
    assert value("grouptune_attempts_total", outcome="lost_lease") == attempts + 1


def test_workers_take_consecutive_ports(plant: Plant) -> None:
    port = free_port()
    plant.environment["GROUPTUNE_WORKER_METRICS_PORT"] = str(port)
    job_id = plant.submit(max_steps=3)
    with plant.default_worker(), plant.train_worker():
        plant.wait_for(job_id, JobStatus.succeeded)

        def scraped() -> str:
            texts = []
            for candidate in (port, port + 1):
                try:
                    texts.append(httpx.get(f"http://127.0.0.1:{candidate}/metrics", trust_env=False).text)
                except httpx.ConnectError:
                    continue
            return "\n".join(texts)

        eventually(lambda: 'grouptune_attempts_total{outcome="succeeded"} 1.0' in scraped())
        assert 'grouptune_step_seconds_count{method="supervised"} 3.0' in scraped()
        assert scraped().count("# TYPE grouptune_attempts_total") == 2


def test_no_free_metrics_port_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            prometheus.serve_worker("127.0.0.1", taken.getsockname()[1], ports=1)


def test_dashboard_queries_existing_metrics() -> None:
    exposed = exposition(lambda: Backlog(dict.fromkeys(map(str, JobStatus), 1), 1, 1.0)).decode()
    declared = set(re.findall(r"# TYPE (\S+) \S+", exposed))
    for registry in (API, WORKER):
        declared |= {
            f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()
        }
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queried = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"grouptune_\w+", target["expr"])
    }
    assert queried == {name for name in declared if name.startswith("grouptune_") and not name.endswith("_created")}
    labels = {"state", "status", "outcome", "seen_by", "method", "route", "le", "engine", "kind"}
    grouped = re.findall(r"by \(([^)]*)\)", json.dumps(panels))
    assert {label.strip() for group in grouped for label in group.split(",")} <= labels
