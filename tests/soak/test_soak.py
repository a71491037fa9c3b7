"""`make soak`: mixed load with kills on a real installation. At the end nothing has grown or is unanswered."""

import hashlib
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests import tiny_model
from tests.local.conftest import remove_postgres_data
from tests.soak import load, report
from tests.soak.growth import Snapshot, growths
from tests.soak.installation import Installation, any_moment, lowest
from tests.soak.load import Client, Ledger
from tests.waiting import eventually

MINUTES: Final = float(os.environ.get("GROUPTUNE_SOAK_MINUTES", "10"))
WARM_UP: Final = 0.25
"""Share of the time."""
KILL_SECONDS: Final = 10.0
"""Mean time between two kills."""
SHORT_LIVED: Final = ("trainer", "Valkey", "Postgres")
KILLED: Final = ("API", "Valkey", "training worker", "Postgres", "engine", "trainer", "default worker")
"""In this order. In the second half of a phase only `SHORT_LIVED` are killed: the others must live to show growth."""
SETTLE_SECONDS: Final = 900.0
"""On a busy machine an export takes minutes: it has the lowest priority."""
QUIET_SECONDS: Final = 20.0
"""The engine unloads its model after 5 s, idle threads of the API end after 10 s."""
SAMPLES: Final = 4
ENDED: Final = ("succeeded", "failed", "cancelled")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3 * SETTLE_SECONDS + 120 * MINUTES)]


@pytest.fixture
def installation() -> Iterator[Installation]:
    """A running installation. If the soak fails, its logs stay in its directory."""
    parent = Path(tempfile.mkdtemp(prefix="gt-"))
    parent.chmod(0o711)
    tiny_model.build(parent / "models" / "tiny")
    installation = Installation(parent, parent / "models")
    with installation.running():
        yield installation
        installation.database.dispose()
    if not installation.is_flat:
        print(f"The logs are in {parent}.")  # noqa: T201 - part of the report of a failure
        return
    remove_postgres_data(installation.state)
    shutil.rmtree(parent)


def test_soak(installation: Installation) -> None:
    ledger = Ledger()
    started = time.monotonic()
    run_phase(installation, ledger, 60 * MINUTES * WARM_UP)
    baseline = settle(installation, ledger)
    kinds = installation.open_kinds()
    run_phase(installation, ledger, 60 * MINUTES * (1 - WARM_UP))
    end = settle(installation, ledger)
    assert_nothing_lost(installation, ledger)
    problems = growths(baseline, end)
    details = ["After the warm-up:", *kinds, "At the end:", *installation.open_kinds(), *installation.temporary_files()]
    assert problems == [], "\n".join([*problems, *details])
    installation.is_flat = True
    report.write(round(time.monotonic() - started), ledger, installation.kills, baseline, end)


def run_phase(installation: Installation, ledger: Ledger, seconds: float) -> None:
    """Run all clients for this time and kill processes in between."""
    stop = threading.Event()
    clients = load.run(installation, ledger, stop)
    started = time.monotonic()
    try:
        for number in itertools.count():
            time.sleep(KILL_SECONDS / 2 + any_moment(KILL_SECONDS))
            if (elapsed := time.monotonic() - started) > seconds:
                break
            eventually(installation.is_up, SETTLE_SECONDS)
            killed = KILLED if elapsed < seconds / 2 else SHORT_LIVED
            installation.kill(killed[number % len(killed)])
    finally:
        stop.set()
        for client in clients:
            client.join(SETTLE_SECONDS)
    assert not [client.name for client in clients if client.is_alive()], "clients do not stop"


def settle(installation: Installation, ledger: Ledger) -> Snapshot:
    """Wait until everything that was accepted has ended and idle things are released; measure then."""
    client = Client(installation, ledger, threading.Event())
    with client.http:
        eventually(lambda: not unfinished(client), SETTLE_SECONDS)
        quiet_until = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < quiet_until:
            client.get("/models")  # the API ends idle threads when it needs one
            time.sleep(1)
    installation.collect_orphans()
    snapshots = []
    for _ in range(SAMPLES):
        snapshots.append(installation.snapshot())
        time.sleep(1)
    return lowest(snapshots)


def unfinished(client: Client) -> list[str]:
    """Return the jobs, exports and files that still wait or run. Resumes paused jobs."""
    paths = [f"/fine_tuning/jobs/{job_id}" for job_id in client.ledger.jobs]
    paths += [f"/exports/{export_id}" for export_id in client.ledger.exports]
    waiting = []
    for path in paths:
        response = client.send("GET", path)
        if response is None or response.status_code not in (200, 404):
            return [path]
        status = "deleted" if response.status_code == 404 else response.json()["status"]
        if status == "paused":
            client.send("POST", f"{path}/resume")
        if status not in (*ENDED, "deleted"):
            waiting.append(path)
    files = client.get("/files")
    if files is None:
        return ["/files"]
    return waiting + [file["id"] for file in files["data"] if file["status"] == "uploaded"]


def assert_nothing_lost(installation: Installation, ledger: Ledger) -> None:
    """Check the content of files, the history of jobs, and what the clients noticed."""
    assert ledger.broken == []
    assert ledger.unexpected == []
    assert installation.breaches() == []
    with installation.client() as client:
        for job_id in ledger.jobs:
            assert client.get(f"/fine_tuning/jobs/{job_id}").json()["status"] in ENDED
        for file_id, sha256 in ledger.files.items():
            content = client.get(f"/files/{file_id}/content")
            assert (file_id, hashlib.sha256(content.content).hexdigest()) == (file_id, sha256)
