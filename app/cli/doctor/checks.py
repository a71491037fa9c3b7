"""Runs all checks of `grouptune doctor`. Imports SQLAlchemy, so the command imports this module on use."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from app.cli import installation
from app.cli.ui.console import ReportProgress
from app.cli.worker_module import ModuleFailed, run_module
from app.core.doctor import database, machine, services
from app.core.doctor.finding import DoctorFinding, FindingLevel, failed, ok, warning
from app.core.errors import DatabaseUnavailable, GrouptuneError
from app.core.settings import Settings
from app.core.storage.opening import open_store
from app.local.database import embedded_url, has_database
from app.local.process import LocalStackError
from app.local.stack import KEY_RING_NAME
from app.local.valkey import EmbeddedValkey

GB: Final = 1e9


def run(config: Settings, progress: ReportProgress, *, history: bool) -> Iterator[DoctorFinding]:
    """Yield the findings; a stopped embedded Postgres is started for the duration of the checks."""
    with ExitStack() as running:
        url = config.database_url
        if url is None and not has_database(config.state_dir):
            fix = "start one with `grouptune up`, or set DATABASE_URL or --state-dir"
            yield failed("postgres", f"{config.state_dir} contains no installation", fix)
        else:
            try:
                url = url or running.enter_context(embedded_url(config.state_dir.absolute(), progress))
                progress("Checking Postgres")
                yield from database.check(url, config.lease_seconds)
            except LocalStackError as error:
                yield failed("postgres", str(error), f"read {config.state_dir / 'logs' / 'postgres.log'}")
            yield from _services(config, progress)
        yield from _machine(config, url)
        progress("Checking the GPU")
        yield from _gpu(config)
        if history and url is not None:
            progress("Checking the history")
            yield from _history(config, url)


def _services(config: Settings, progress: ReportProgress) -> Iterator[DoctorFinding]:
    progress("Checking the broker")
    broker_url = config.redis_url or EmbeddedValkey(config.state_dir).find_running()
    if broker_url is None:
        yield warning(
            "broker", "the service is stopped: the embedded Valkey is not running", "start it with `grouptune up`"
        )
    else:
        yield services.check_broker(broker_url)
    progress("Checking the storage")
    try:
        store = open_store(config.storage_dir, config.storage_url, config.storage_endpoint, config.storage_region)
    except GrouptuneError as error:
        yield failed("storage", str(error), "install the missing package on the machines of the API and the workers")
    else:
        yield services.check_store(store, config.storage_url or str(config.storage_dir))
    progress("Checking the inference engines")
    key = config.serve_api_key.get_secret_value() if config.serve_api_key else None
    yield from services.check_engines(config.serve_url, key)


def _machine(config: Settings, url: str | None) -> Iterator[DoctorFinding]:
    places = {
        "state": config.state_dir,
        "base models": config.models_dir,
        "temporary files": Path(tempfile.gettempdir()),
    }
    yield from machine.check_disks(places)
    yield from machine.check_models(config.models_dir)
    text = config.secret_keys.get_secret_value() if config.secret_keys else None
    own = config.state_dir / KEY_RING_NAME
    path = config.secret_keys_file or (own if text is None and own.exists() else None)
    yield machine.check_keys(text, path, url)
    yield from machine.check_private_files(config.state_dir)


def _gpu(config: Settings) -> Iterator[DoctorFinding]:
    try:
        report: dict[str, Any] = json.loads(run_module(["worker.training.devices"], lambda _: None))
    except ModuleFailed as error:
        reason = str(error).strip().rpartition("\n")[2]
        if "No module named" in reason:
            fix = "run pip install 'grouptune[worker]', unless this machine runs only the API"
            yield warning("gpu", f"this machine cannot train: {reason}", fix)
        else:
            yield failed(
                "gpu", f"torch cannot be imported: {reason}", "reinstall the pinned versions (constraints.txt)"
            )
        return
    for problem in report["trouble"]:
        yield warning("gpu", problem, "install the driver and a matching build of torch; until then, jobs use the CPU")
    working = [device for device in report["devices"] if device["error"] is None]
    for device in report["devices"]:
        if device["error"] is not None:
            yield failed("gpu", f"{device['name']}: {device['error']}", "check `nvidia-smi`; reset or exclude this GPU")
    if report["devices"] and len(working) < config.trainer_processes:
        fix = "set GROUPTUNE_TRAINER_PROCESSES to the number of GPUs per job"
        yield failed("gpu", f"{len(working)} working GPUs, but jobs use {config.trainer_processes} processes", fix)
    names = ", ".join(
        f"{device['name']} ({device['free_bytes'] / GB:.0f} of {device['bytes'] / GB:.0f} GB free)"
        for device in working
    )
    yield ok("gpu", f"torch {report['torch']}: " + (names or f"no GPU; jobs train on {report['cpus']} CPU cores"))


def _history(config: Settings, url: str) -> Iterator[DoctorFinding]:
    try:
        breaches = installation.breaches(url, config)
    except (DatabaseUnavailable, GrouptuneError) as error:
        yield failed("history", str(error), "fix the problems above, then check again")
        return
    fix = (
        "restore a backup, or delete the named object; report a bug unless a lost disk or a partial restore explains it"
    )
    for breach in breaches:
        yield failed("history", f"{breach.subject}: violated invariant: {breach.invariant}", fix)
    if not breaches:
        yield ok("history", "the history of every job satisfies the invariants, and no blob is missing")


def worst(findings: list[DoctorFinding]) -> FindingLevel:
    """Return the worst level among the findings."""
    levels = {finding.level for finding in findings}
    return next(
        level
        for level in (FindingLevel.failed, FindingLevel.warning, FindingLevel.ok)
        if level in levels or level is FindingLevel.ok
    )
