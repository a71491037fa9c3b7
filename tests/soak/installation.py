"""A real `grouptune up` under soak: its processes, kills of them, and the figures of what they hold."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import redis
from sqlalchemy import text

from app.core.db import Database
from app.core.jobs import invariants
from app.core.storage.blobs import INCOMING
from app.core.storage.local import LocalBlobStore
from app.local.postgres import EmbeddedPostgres
from app.local.valkey import EmbeddedValkey
from tests.processes import command_line
from tests.soak.growth import Snapshot
from tests.waiting import eventually
from worker.maintenance import orphaned_blobs
from worker.workspace import LOG_NAME

ROOT: Final = Path(__file__).parents[2]
NAMES: Final = {
    "app.main:create_app": "API",
    "-Q train": "training worker",
    "-Q default": "default worker",
    "worker.serving": "engine",
    "/valkey-server": "Valkey",
    "bin/postgres": "Postgres",
    "worker.training": "trainer",
}
"""Part of the command line -> name of the process."""
_KEPT: Final = {LOG_NAME, "spec.json"}
"""Files of an attempt that stay in `runs/`."""


class Installation:
    """A running installation with the model `tiny` in a state directory of its own."""

    def __init__(self, parent: Path, models: Path) -> None:
        self.state, self.temporary = parent / "state", parent / "tmp"
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        self.kills: Counter[str] = Counter()
        self.is_flat = False
        """Whether the soak has passed."""
        self._models = models

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run `grouptune up`; kill it at the end if it does not stop by itself."""
        own = {
            "GROUPTUNE_MODELS_DIR": str(self._models),
            "GROUPTUNE_LEASE_SECONDS": "6",
            "GROUPTUNE_TRAINER_THREADS": "1",
            "GROUPTUNE_SERVE_THREADS": "1",
            "GROUPTUNE_SERVE_IDLE_SECONDS": "5",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.temporary),
        }
        argv = [sys.executable, "-m", "app.cli", "up", "--state-dir", str(self.state)]
        with (
            (self.state.parent / "up.log").open("wb") as log,
            subprocess.Popen(argv, cwd=ROOT, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=log) as up,
        ):
            self.pid = up.pid
            try:
                eventually((self.state / "connection.json").exists)
                yield
            finally:
                up.send_signal(signal.SIGINT)
                try:
                    up.wait(120)
                except subprocess.TimeoutExpired:
                    up.kill()

    @cached_property
    def connection(self) -> dict[str, Any]:
        return dict(json.loads((self.state / "connection.json").read_text()))

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.connection['api_key']}"}
        return httpx.Client(base_url=self.connection["base_url"], headers=headers, timeout=90, trust_env=False)

    @cached_property
    def database(self) -> Database:
        url = EmbeddedPostgres(self.state).find_running()
        assert url is not None
        return Database(url, pool_size=1)

    @cached_property
    def store(self) -> LocalBlobStore:
        return LocalBlobStore(self.state / "storage")

    def processes(self) -> list[tuple[str, psutil.Process]]:
        """Return the processes with a name, each worker's beat and other children excluded."""
        up = psutil.Process(self.pid)
        found = [("supervisor", up)]
        for child in up.children(recursive=True):
            words = " ".join(command_line(child))
            name = next((name for part, name in NAMES.items() if part in words), None)
            if name is not None and (name == "trainer" or _parent(child) == up.pid):
                found.append((name, child))
        return found

    def is_up(self) -> bool:
        """Whether the API answers and reaches Postgres and Valkey."""
        with self.client() as client, suppress(httpx.TransportError):
            return client.get("/models").status_code == 200
        return False

    def kill(self, name: str) -> None:
        """Kill the process with SIGKILL, if it runs."""
        for found, process in self.processes():
            if found == name:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    self.kills[name] += 1
                return

    def breaches(self) -> list[invariants.Breach]:
        """Return what the history checker finds."""
        with self.database.transaction() as session:
            return invariants.breaches(session, self.store.exists)

    def collect_orphans(self) -> int:
        """Remove orphaned and incomplete blobs as the hourly task does, but of any age; return how many."""
        return orphaned_blobs.collect(self.database, self.store, grace_seconds=0.0)

    def snapshot(self) -> Snapshot:
        """Measure every process and the installation."""
        figures = {name: _figures(process) for name, process in self.processes() if name != "trainer"}
        figures["installation"] = {
            "processes": sum(map(self._is_ours, psutil.process_iter())),
            "temporary files": len(self.temporary_files()),
            "Postgres connections": self._postgres_connections(),
            **self._valkey(),
        }
        return figures

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether a process belongs to this installation, also if its parent was killed. Postgres' are left out."""
        try:
            return process.environ().get("TMPDIR") == str(self.temporary) and "postgres" not in process.name()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def open_kinds(self) -> list[str]:
        """Return one line for each process: how many descriptors of which kind it has open."""
        return [f"{name}: {dict(_kinds(process.pid))}" for name, process in self.processes()]

    def temporary_files(self) -> list[str]:
        """Return the paths of all files that are to be removed when nothing runs."""
        runs = [path for path in (self.state / "runs").rglob("*") if path.is_file() and path.name not in _KEPT]
        incoming = [*(self.state / "storage" / INCOMING).glob("*"), *(self.state / "serving").rglob(".incoming/*")]
        drafts = [path for path in self._models.iterdir() if path.name.startswith(".") and path.is_dir()]
        return sorted(map(str, [*runs, *incoming, *drafts, *self.temporary.iterdir()]))

    def _postgres_connections(self) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        with self.database.reading() as session:
            return int(session.execute(text(query)).scalar_one())

    def _valkey(self) -> dict[str, float]:
        url = EmbeddedValkey(self.state).find_running()
        assert url is not None
        with redis.Redis(unix_socket_path=url.removeprefix("redis+socket://")) as client:
            # Counters of rate limits and locks have an expiry; only keys without one can pile up.
            lasting = [key for key in client.scan_iter() if client.ttl(key) == -1]
            return {"Valkey connections": len(client.client_list()), "Valkey keys": len(lasting)}


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


def _figures(process: psutil.Process) -> dict[str, float]:
    with process.oneshot():
        return {
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "memory MB": round(_own_bytes(process.pid) / 1e6, 1),
        }


def _own_bytes(pid: int) -> int:
    """Return the memory of a process without its files; what it shares is divided by the number of its users.

    Linux would divide the pages of libraries as well: the figure of a process rises by 100 MB when others that use
    torch end. The kernel drops these pages when it needs memory.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def _kinds(pid: int) -> Counter[str]:
    """Count the descriptors of a process by kind: `socket`, `pipe`, `anon_inode` or the path of a file."""
    kinds: Counter[str] = Counter()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(FileNotFoundError):
            kinds[str(descriptor.readlink()).partition(":")[0]] += 1
    return kinds


def lowest(snapshots: list[Snapshot]) -> Snapshot:
    """Return each figure's lowest value: polls and checks open connections for a moment."""
    first, *rest = snapshots
    return {
        process: {name: min([value, *(other[process][name] for other in rest)]) for name, value in figures.items()}
        for process, figures in first.items()
    }


def any_moment(longest: float) -> float:
    """Return a random number of seconds."""
    return random.uniform(0, longest)  # noqa: S311 - a moment, not a secret
