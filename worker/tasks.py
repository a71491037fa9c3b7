"""The Celery tasks. Each claims its work in Postgres; without Postgres it ends, and a sweep notifies again later."""

import threading
import time
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Final

import structlog
from celery import Task, signals
from kombu.exceptions import OperationalError

from app.core import scratch, settings
from app.core.broker import (
    EVAL_TASK,
    EXPORT_TASK,
    LINT_TASK,
    PULL_TASK,
    TRAIN_TASK,
    VALIDATE_TASK,
    WEBHOOK_TASK,
    notify_training,
    notify_webhooks,
)
from app.core.db import Database
from app.core.egress.client import Egress
from app.core.egress.ip_policy import PrivateHosts
from app.core.errors import BadSetup, DatabaseUnavailable
from app.core.jobs import gangs, leases, queries
from app.core.jobs.leases import Claim, Claimer
from app.core.prometheus import GPU_QUARANTINED
from app.core.secrets import KeyRing
from app.core.settings import Settings
from app.core.storage.blobs import BlobStore, StorageUnavailable
from app.core.storage.opening import open_store
from app.core.workers.presence import TRAIN_QUEUE
from worker import (
    eval_runs,
    exports,
    file_validation,
    job_lint,
    model_pulls,
    own_store,
    presence,
    row_checking,
    sweeper,
    webhook_sender,
)
from worker.attempt_runner import AttemptRunner
from worker.celery_app import CONFIGURATION, DRAIN, PRESENCE, app
from worker.idle_wait import IdleWait
from worker.maintenance import expiry, orphaned_blobs
from worker.member_runner import MemberRunner
from worker.runner import Runner
from worker.schedule import Schedule, Sweep
from worker.workspace import remove_leftovers

log = structlog.get_logger(__name__)


@lru_cache(maxsize=1)
def _settings() -> Settings:
    return settings.load()


@lru_cache(maxsize=1)
def _database() -> Database:
    """Return the database, opened on first use."""
    url = _settings().database_url
    if url is None:
        raise BadSetup("A worker needs DATABASE_URL.")
    return Database(url, idle_seconds=_settings().lease_seconds)  # limits how long a stopped worker locks its job


@lru_cache(maxsize=1)
def _store() -> BlobStore:
    """Return the blob store, opened by the first task."""
    config = _settings()
    return open_store(config.storage_dir, config.storage_url, config.storage_endpoint, config.storage_region)


@lru_cache(maxsize=1)
def _key_ring() -> KeyRing:
    config = _settings()
    return KeyRing.load(config.secret_keys.get_secret_value() if config.secret_keys else None, config.secret_keys_file)


@lru_cache(maxsize=1)
def _egress() -> Egress:
    """Return the HTTP client for webhooks; its connections are reused between tasks."""
    return Egress(PrivateHosts.parse(_settings().allowed_private_hosts), max_connections=webhook_sender.AT_ONCE)


_SHARES_STORE: Final = threading.Event()
"""Set once this worker has found a file of the installation in its store."""


def _shares_store() -> bool:
    """Return whether this worker's store can be that of the installation; otherwise log what to do."""
    if _SHARES_STORE.is_set():
        return True
    try:
        found = own_store.has_files(_database(), _store())
    except StorageUnavailable:  # a job that needs the store waits for it
        return True
    if found:
        _SHARES_STORE.set()
    if found is False:
        log.error(
            "worker.other_store",
            store=_settings().storage_url or str(_settings().storage_dir),
            problem="none of the newest uploaded files is in this worker's store, so it takes no work",
            fix="give it the GROUPTUNE_STORAGE_URL of the installation (docs/storage.md), then restart it",
        )
    PRESENCE.report_problem(own_store.PROBLEM if found is False else None)
    return found is not False


def _notify_training() -> None:
    url = _settings().redis_url
    if url is not None:
        notify_training(url)


def _notify_webhooks() -> None:
    url = _settings().redis_url
    if url is not None:
        notify_webhooks(url)


def _claim() -> tuple[Claim | None, float]:
    """Claim the best job, or wait for the other workers of a job that needs several.

    Return the claim and a monotonic time before which its lease did not begin. Other workers are notified if more jobs
    are queued, because this slot is busy from now on.
    """
    settings, hardware, kind = _settings(), presence.own_hardware(), presence.own_kind()
    slot = None if kind is None else gangs.new_slot(presence.name(), kind)
    claim_best: Claimer = partial(
        leases.claim,
        worker=presence.name(),
        lease_seconds=settings.lease_seconds,
        max_running_jobs=settings.max_running_jobs,
        max_gpu_hours=settings.max_gpu_hours,
        hardware=hardware,
        slot=slot,
    )
    claimed_at = time.monotonic()
    with _database().transaction() as session:
        claim = claim_best(session)
        waits = claim is None and slot is not None and gangs.is_awaited(session, hardware.gpus)
        more = queries.any_queued(session)
    if more and (claim is not None or waits):
        _notify_training()
    if slot is None or not waits:
        return claim, claimed_at
    wait = IdleWait(_database(), slot, hardware.gpus, claim_best)
    claim = wait.run(DRAIN, lambda: not PRESENCE.takes_jobs)
    if claim is not None:
        _notify_training()
    return claim, wait.claimed_at


def _quarantine(hostname: str) -> None:
    """Take no more jobs. The worker keeps running until a restart, so that its metrics and its log show why."""
    log.error("gpu.quarantined", worker=hostname, fix="check the GPU (nvidia-smi, dmesg), then restart this worker")
    PRESENCE.quarantine()
    GPU_QUARANTINED.set(1)
    with suppress(OperationalError):  # without a broker there are no messages to leave to other workers
        # Wait for the reply: otherwise this worker might still take the message that is sent next.
        app.control.cancel_consumer(TRAIN_QUEUE, destination=[hostname], reply=True, timeout=5)


@app.task(name=TRAIN_TASK, bind=True)
def run_next(self: Task) -> None:
    """Claim the best queued job and run an attempt of it."""
    if DRAIN.begun or not PRESENCE.takes_jobs:
        return
    try:
        if not _shares_store():
            return
        remove_leftovers(_database(), _settings().runs_dir)
        claim, claimed_at = _claim()
    except DatabaseUnavailable:
        log.warning("train.database_unavailable")
        return
    if claim is None:
        return
    kind: type[AttemptRunner] = Runner if claim.node == 0 else MemberRunner
    runner = kind(_database(), _store(), _settings(), claim, claimed_at=claimed_at, drain=DRAIN)
    runner.run()
    if runner.gpu_is_broken:
        _quarantine(self.request.hostname)
    _notify_training()
    _notify_webhooks()


@app.task(name=VALIDATE_TASK)
def validate_next() -> None:
    """Validate all files that need it and check their rows for new jobs; queue the jobs that waited for them."""
    try:
        if not _shares_store():
            return
        while file_validation.validate_one(_database(), _store()) or row_checking.check_one(
            _database(), _store(), _settings().models_dir
        ):
            sweeper.admit(_database(), app)
        sweeper.notify_linting(_database(), app)
    except DatabaseUnavailable:
        log.warning("validate.database_unavailable")
    except StorageUnavailable as error:
        # The claim expires, and a sweep notifies again.
        log.warning("validate.storage_unavailable", error=error.message)


@app.task(name=LINT_TASK)
def lint_next() -> None:
    """Lint the training files of all new jobs; queue the jobs that waited for the lint."""
    try:
        while job_lint.lint_one(_database(), _store()):
            sweeper.admit(_database(), app)
    except DatabaseUnavailable:
        log.warning("lint.database_unavailable")
    except StorageUnavailable as error:
        # The claim expires, and a sweep notifies again.
        log.warning("lint.storage_unavailable", error=error.message)


_EXPORTING = threading.Lock()
"""Held while this process makes an export: it takes minutes and as much memory as a model, so one at a time."""


@app.task(name=EXPORT_TASK)
def make_exports() -> None:
    """Make all exports that are due, unless another thread of this worker is already making them."""
    if not _EXPORTING.acquire(blocking=False):
        return
    try:
        while not DRAIN.begun and exports.export_one(_database(), _store(), _settings(), _key_ring(), DRAIN):
            _notify_webhooks()
    except DatabaseUnavailable:
        log.warning("export.database_unavailable")
    finally:
        _EXPORTING.release()


_EVALUATING: Final = threading.Lock()
"""Held while this process runs an eval: one at a time, so that other short tasks find a thread."""


@app.task(name=EVAL_TASK)
def run_evals() -> None:
    """Run all evals that are due, unless another thread of this worker is already running one."""
    if not _EVALUATING.acquire(blocking=False):
        return
    try:
        while not DRAIN.begun and eval_runs.run_one(_database(), _store(), _settings(), _key_ring(), DRAIN):
            _notify_webhooks()
    except DatabaseUnavailable:
        log.warning("eval_run.database_unavailable")
    finally:
        _EVALUATING.release()


_PULLING: Final = threading.Lock()
"""Held while this process downloads a base model: one at a time, so that other short tasks find a thread."""


@app.task(name=PULL_TASK)
def pull_models() -> None:
    """Download all base models that are due, unless another thread of this worker is already downloading."""
    if not _PULLING.acquire(blocking=False):
        return
    try:
        while not DRAIN.begun and model_pulls.pull_one(_database(), _settings(), DRAIN):
            pass
    except DatabaseUnavailable:
        log.warning("model_pull.database_unavailable")
    finally:
        _PULLING.release()


@app.task(name=WEBHOOK_TASK)
def deliver_webhooks() -> None:
    """Send one batch of due deliveries, then queue another task, so that other short tasks run in between."""
    try:
        if webhook_sender.deliver_batch(_database(), _egress(), _key_ring()):
            _notify_webhooks()
    except DatabaseUnavailable:
        log.warning("webhooks.database_unavailable")
    except BadSetup as error:
        log.error("webhooks.no_key", error=error.message)


def _expire_leases() -> None:
    """End attempts whose lease has expired, and notify workers of the jobs that are queued again."""
    if sweeper.expire_leases(_database()):
        sweeper.admit(_database(), app)


def _remove_expired() -> None:
    scratch.remove_abandoned()
    expiry.remove_expired(_database(), _store())


LEASES_SECONDS: Final = 2.0
"""Often, because a cancelled job of a dead worker waits for it."""
COLLECT_SECONDS: Final = 3600.0
"""Rare, because it lists the whole blob store."""

SCHEDULE: Final = Schedule(
    (
        Sweep("jobs", CONFIGURATION.sweep_seconds, lambda: sweeper.sweep(_database(), app, _settings())),
        Sweep("leases", min(LEASES_SECONDS, CONFIGURATION.sweep_seconds), _expire_leases),
        Sweep("expiry", CONFIGURATION.sweep_seconds, _remove_expired),
        Sweep(
            "orphans",
            COLLECT_SECONDS,
            lambda: orphaned_blobs.collect(_database(), _store(), _settings().orphan_grace_seconds),
        ),
    ),
    presence.name(),
)


@signals.worker_ready.connect
def _start_sweeps(**_: Any) -> None:
    if CONFIGURATION.database_url is not None:
        SCHEDULE.start(_database())


@signals.worker_shutting_down.connect
def _end_sweeps(**_: Any) -> None:
    SCHEDULE.end()


@signals.worker_shutdown.connect
def _await_sweeps(**_: Any) -> None:
    SCHEDULE.join()
