"""A claimed job and a runner for it, over a real database and a protocol-speaking subprocess."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine, func, make_url, select, text, update

from app.core.db import Database
from app.core.jobs import leases, queries
from app.core.jobs.state_machine import TERMINAL, JobStatus
from app.core.jobs.tables import Checkpoint, Job, JobAttempt
from app.core.settings import Settings
from app.core.storage.blobs import BlobStore
from app.core.storage.local import LocalBlobStore
from app.core.workers.tables import Sweep
from tests.setup_jobs import make_job, make_project, stored_file, supervised
from tests.waiting import eventually
from tests.worker.celery_process import CeleryProcess
from tests.worker.protocol_trainer import RELEASED
from worker.process_control import Drain
from worker.runner import Runner

TRAINER = Path(__file__).with_name("protocol_trainer.py")

Outage = Callable[[float], None]


@dataclass
class Bench:
    """One project with one queued job at a time."""

    database: Database
    store: LocalBlobStore
    settings: Settings
    project: str
    job_id: str
    drain: Drain = field(default_factory=Drain)
    trainer: Sequence[str] = ()
    """Instead of `protocol_trainer.py`; the behaviour then means nothing."""

    def runner(self, behaviour: str) -> Runner:
        """Claims the job, now if it waits in back-off, for a trainer that behaves so."""
        claimed_at = time.monotonic()
        with self.database.transaction() as session:
            session.execute(update(Job).where(Job.id == self.job_id).values(eligible_at=func.now()))
        with self.database.transaction() as session:
            claim = leases.claim(session, "test", self.settings.lease_seconds)
        assert claim is not None
        assert claim.job_id == self.job_id
        return Runner(
            self.database,
            self.store,
            self.settings,
            claim,
            claimed_at=claimed_at,
            drain=self.drain,
            trainer_command=self.trainer or (sys.executable, str(TRAINER), behaviour),
        )

    def run(self, behaviour: str) -> Job:
        self.runner(behaviour).run()
        return self.job()

    def start(self, behaviour: str) -> threading.Thread:
        """Runs in a thread; returns once the trainer is at work."""
        thread = threading.Thread(target=self.runner(behaviour).run)
        thread.start()
        eventually(lambda: self.job().total_steps is not None)
        return thread

    def job(self) -> Job:
        with self.database.transaction() as session:
            return session.get_one(Job, self.job_id)

    def status(self) -> JobStatus:
        return JobStatus(self.job().status)

    def release(self) -> None:
        """Let a trainer with the behaviour `train_held` continue, also in later attempts."""
        (self.settings.runs_dir / self.job_id / RELEASED).touch()

    def run_dir(self, epoch: int = 1) -> Path:
        return self.settings.runs_dir / self.job_id / f"a{epoch}"


@pytest.fixture
def bench(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, "secret")
    settings = Settings(
        state_dir=tmp_path / "state",
        models_dir=tmp_path / "models",
        lease_seconds=6.0,
        cancel_grace_seconds=1.0,
    )
    (settings.models_dir / "tiny").mkdir(parents=True)
    (settings.models_dir / "tiny" / "config.json").write_text("{}")
    store = LocalBlobStore(settings.storage_dir)
    with database.transaction() as session:
        project = make_project(session)
        file = stored_file(session, store, project, tmp_path)
        job = make_job(session, project, file=file)
    return Bench(database, store, settings, project, job.id)


@pytest.fixture
def real_trainers(forked_trainers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the real trainers of a bench start in milliseconds."""
    for name, value in forked_trainers.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def outage(migrated_url: str) -> Iterator[Outage]:
    """Takes the database away for some seconds: all connections are cut and new ones refused."""
    url = make_url(migrated_url)
    engine = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")

    def allow(connections: bool) -> None:
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS {connections}"))

    def away(seconds: float) -> None:
        allow(False)
        with engine.connect() as connection:
            name = {"name": url.database}
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), name
            )
        threading.Event().wait(seconds)
        allow(True)

    yield away
    allow(True)
    engine.dispose()


@dataclass
class Plant:
    """A database, a broker and a tiny model; tests start and kill the workers."""

    database: Database
    store: BlobStore
    directory: Path
    environment: dict[str, str]
    broker_url: str
    project: str

    def train_worker(self, name: str = "train") -> CeleryProcess:
        return CeleryProcess(name, ["-Q", "train", "-P", "threads", "-c", "1"], self.environment, self.directory)

    def quick_worker(self, name: str = "train") -> CeleryProcess:
        """One whose trainer is `protocol_trainer.py`; for jobs of `tell`."""
        arguments = ["-Q", "train", "-P", "threads", "-c", "1"]
        return CeleryProcess(name, arguments, self.environment, self.directory, "tests.worker.protocol_worker")

    def default_worker(self) -> CeleryProcess:
        return CeleryProcess("default", ["-Q", "default", "-P", "threads", "-c", "1"], self.environment, self.directory)

    def submit(self, *, rows: int = 8, **hyperparameters: int) -> str:
        """Create a queued job for the real trainer; no worker is notified."""
        with self.database.transaction() as session:
            file = stored_file(session, self.store, self.project, self.directory, rows)
            return make_job(session, self.project, supervised(batch_size=2, **hyperparameters), file).id

    def tell(self, behaviour: str, *, priority: int = 0) -> str:
        """Create a queued job whose trainer has this behaviour; no worker is notified."""
        spec = supervised().model_copy(update={"metadata": {"behaviour": behaviour}})
        with self.database.transaction() as session:
            job = make_job(session, self.project, spec, stored_file(session, self.store, self.project, self.directory))
            job.priority = priority
            return job.id

    def release(self, job_id: str) -> None:
        """Let a trainer with the behaviour `train_held` continue, also in later attempts."""
        (self.directory / "state" / "runs" / job_id / RELEASED).touch()

    def job(self, job_id: str) -> Job:
        with self.database.transaction() as session:
            return session.get_one(Job, job_id)

    def attempts(self, job_id: str) -> list[JobAttempt]:
        with self.database.transaction() as session:
            return queries.list_attempts(session, job_id)

    def checkpoints(self, job_id: str) -> Sequence[Checkpoint]:
        """Return the stored checkpoints, newest first."""
        with self.database.transaction() as session:
            return queries.latest_checkpoints(session, job_id)

    def end_back_off(self, job_id: str) -> None:
        with self.database.transaction() as session:
            session.execute(update(Job).where(Job.id == job_id).values(eligible_at=func.now()))

    def wait_for(self, job_id: str, status: JobStatus) -> Job:
        def reached() -> bool:
            now = self.job(job_id)
            assert now.status == status or now.status not in TERMINAL, (now.status, now.error)
            return now.status == status

        eventually(reached)
        return self.job(job_id)

    def wait_for_step(self, job_id: str, step: int) -> None:
        eventually(lambda: self.job(job_id).step >= step)


def last_sweeps(database: Database) -> dict[str, str]:
    """The worker that ran each sweep last."""
    with database.reading() as session:
        return {sweep.name: sweep.worker for sweep in session.scalars(select(Sweep))}


@pytest.fixture
def plant(
    database: Database,
    migrated_url: str,
    broker_url: str,
    tiny_models: Path,
    tmp_path: Path,
    forked_trainers: dict[str, str],
) -> Plant:
    state_dir = tmp_path / "state"
    environment = {
        "DATABASE_URL": migrated_url,
        "REDIS_URL": broker_url,
        "GROUPTUNE_STATE_DIR": str(state_dir),
        "GROUPTUNE_MODELS_DIR": str(tiny_models),
        "GROUPTUNE_LEASE_SECONDS": "6",
        "GROUPTUNE_TRAINER_THREADS": "1",
        **forked_trainers,
    }
    with redis.Redis(unix_socket_path=broker_url.removeprefix("redis+socket://")) as broker:
        broker.flushall()
    with database.transaction() as session:
        project = make_project(session)
    return Plant(database, LocalBlobStore(state_dir / "storage"), tmp_path, environment, broker_url, project)
