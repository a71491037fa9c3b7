"""Runs all checks of `grouptune doctor`. Imports SQLAlchemy, so the command imports this module on use."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from app.cli import installation
from app.cli.doctor.guard import guarded
from app.cli.ui.console import ReportProgress
from app.cli.ui.hints import suggest
from app.cli.worker_module import ModuleFailed, run_module
from app.core.doctor import database, machine, services
from app.core.doctor.finding import DoctorFinding, FindingLevel, failed, ok, warning
from app.core.errors import GrouptuneError
from app.core.extras import install_command
from app.core.paths import exists
from app.core.plurals import plural
from app.core.settings import BadSettings, Settings
from app.core.storage.opening import open_store
from app.local.database import embedded_url, has_database
from app.local.errors import LocalStackError
from app.local.stack import KEY_RING_NAME
from app.local.valkey import EmbeddedValkey

GB: Final = 1e9


def run(config: Settings, progress: ReportProgress, *, history: bool) -> Iterator[DoctorFinding]:
    """Yield the findings; a stopped embedded Postgres is started for the duration of the checks."""
    with ExitStack() as running:
        database_check = _DatabaseCheck(config, progress, running)
        yield from guarded("postgres", database_check.run)
        if database_check.is_installed:
            yield from _services(config, progress)
        url = database_check.usable_url
        yield from guarded("disk", lambda: _disks(config))
        yield from guarded("models", lambda: machine.check_models(config.models_dir))
        if database_check.is_installed:  # `grouptune up` creates the keys of a new installation
            yield from guarded("keys", lambda: _keys(config, url))
        progress("Checking the GPU")
        yield from guarded("gpu", lambda: _gpu(config))
        if history:
            progress("Checking the history")
            yield from guarded("history", lambda: _history(config, url))


def bad_settings(error: BadSettings) -> Iterator[DoctorFinding]:
    """Yield a finding for each setting that is wrong; nothing else can be checked then."""
    for problem in error.problems:
        yield failed("settings", problem, "correct this variable; the other checks need valid settings")


class _DatabaseCheck:
    """Checks Postgres, and finds out what the later checks can use."""

    def __init__(self, config: Settings, progress: ReportProgress, running: ExitStack) -> None:
        """`running` ends an embedded Postgres that the check has started."""
        self._config = config
        self._progress = progress
        self._running = running
        self.is_installed = True
        self.usable_url: str | None = None
        """URL of the database once it is known to have this version's schema."""

    def run(self) -> Iterator[DoctorFinding]:
        state_dir, url = self._config.state_dir, self._config.database_url
        if url is None and not has_database(state_dir):
            self.is_installed = False
            fix = f"start one with `{suggest('up')}`, or set DATABASE_URL or --state-dir"
            yield failed("postgres", f"{state_dir} contains no installation", fix)
            return
        try:
            url = url or self._running.enter_context(embedded_url(state_dir.absolute(), self._progress))
        except LocalStackError as error:
            yield failed("postgres", str(error), f"read {state_dir / 'logs' / 'postgres.log'}")
            return
        self._progress("Checking Postgres")
        for finding in database.check(url, self._config.lease_seconds):
            if finding.check == "migrations" and finding.level is FindingLevel.ok:
                self.usable_url = url
            yield finding


def _services(config: Settings, progress: ReportProgress) -> Iterator[DoctorFinding]:
    progress("Checking the broker")
    yield from guarded("broker", lambda: _broker(config))
    progress("Checking the storage")
    yield from guarded("storage", lambda: _storage(config))
    progress("Checking the inference engines")
    key = config.serve_api_key.get_secret_value() if config.serve_api_key else None
    yield from guarded("engine", lambda: services.check_engines(config.serve_url, key))


def _broker(config: Settings) -> Iterator[DoctorFinding]:
    url = config.redis_url or EmbeddedValkey(config.state_dir).find_running()
    if url is None:
        yield warning(
            "broker", "the service is stopped: the embedded Valkey is not running", f"start it with `{suggest('up')}`"
        )
    else:
        yield services.check_broker(url)


def _storage(config: Settings) -> Iterator[DoctorFinding]:
    try:
        store = open_store(config.storage_dir, config.storage_url, config.storage_endpoint, config.storage_region)
    except GrouptuneError as error:
        yield failed("storage", str(error), "install the missing package on the machines of the API and the workers")
    else:
        yield services.check_store(store, config.storage_url or str(config.storage_dir))


def _disks(config: Settings) -> Iterator[DoctorFinding]:
    places = {
        "state": config.state_dir,
        "base models": config.models_dir,
        "temporary files": Path(tempfile.gettempdir()),
    }
    yield from machine.check_disks(places)


def _keys(config: Settings, url: str | None) -> Iterator[DoctorFinding]:
    text = config.secret_keys.get_secret_value() if config.secret_keys else None
    own = config.state_dir / KEY_RING_NAME
    path = config.secret_keys_file or (own if text is None and exists(own) else None)
    yield machine.check_keys(text, path, url)
    yield from machine.check_private_files(config.state_dir)


def _gpu(config: Settings) -> Iterator[DoctorFinding]:
    try:
        report: dict[str, Any] = json.loads(run_module(["worker.training.devices"], lambda _: None))
    except ModuleFailed as error:
        reason = str(error).strip().rpartition("\n")[2]
        if "No module named" in reason:
            extra = "local" if config.database_url is None else "worker"
            fix = f"run {install_command(extra)}, unless this machine runs only the API"
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
        yield failed(
            "gpu",
            f"{plural(len(working), 'working GPU')}, but jobs use {plural(config.trainer_processes, 'process')}",
            fix,
        )
    names = ", ".join(
        f"{device['name']} ({device['free_bytes'] / GB:.0f} of {device['bytes'] / GB:.0f} GB free)"
        for device in working
    )
    yield ok("gpu", f"torch {report['torch']}: " + (names or f"no GPU; jobs train on {report['cpus']} CPU cores"))


def _history(config: Settings, url: str | None) -> Iterator[DoctorFinding]:
    if url is None:
        fix = "fix the problems above, then check again"
        yield failed("history", "it could not be checked without a database at this version's schema", fix)
        return
    breaches = installation.breaches(url, config)
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
