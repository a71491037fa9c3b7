"""All checks of `grouptune doctor`. Loads SQLAlchemy, so that module imports it only on use."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from app.cli import installation
from app.cli.ui.console import Progress
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


def run(config: Settings, progress: Progress, *, history: bool) -> Iterator[DoctorFinding]:
    """One finding after the other; an embedded Postgres that is stopped runs meanwhile."""
    with ExitStack() as running:
        url = config.database_url
        if url is None and not has_database(config.state_dir):
            fix = "start one with `grouptune up`, or set DATABASE_URL or --state-dir"
            yield failed("postgres", f"there is no installation in {config.state_dir}", fix)
        else:
            try:
                url = url or running.enter_context(embedded_url(config.state_dir.absolute(), progress))
                progress("Postgres")
                yield from database.check(url, config.lease_seconds)
            except LocalStackError as error:
                yield failed("postgres", str(error), f"look at {config.state_dir / 'logs' / 'postgres.log'}")
            yield from _services(config, progress)
        yield from _machine(config, url)
        progress("GPU")
        yield from _gpu(config)
        if history and url is not None:
            progress("History")
            yield from _history(config, url)


def _services(config: Settings, progress: Progress) -> Iterator[DoctorFinding]:
    progress("Broker")
    broker_url = config.redis_url or EmbeddedValkey(config.state_dir).find_running()
    if broker_url is None:
        yield warning("broker", "the embedded Valkey does not run: the service is stopped", "start it: `grouptune up`")
    else:
        yield services.check_broker(broker_url)
    progress("Storage")
    try:
        store = open_store(config.storage_dir, config.storage_url, config.storage_endpoint, config.storage_region)
    except GrouptuneError as error:
        yield failed("storage", str(error), "install what it names where the API and the workers run")
    else:
        yield services.check_store(store, config.storage_url or str(config.storage_dir))


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
        found: dict[str, Any] = json.loads(run_module(["worker.training.devices"], lambda _: None))
    except ModuleFailed as error:
        reason = str(error).strip().rpartition("\n")[2]
        if "No module named" in reason:
            fix = "pip install 'grouptune[worker]' where workers run; a machine with the API alone needs it not"
            yield warning("gpu", f"this machine cannot train: {reason}", fix)
        else:
            yield failed(
                "gpu", f"torch cannot be loaded: {reason}", "install the pinned versions (constraints.txt) again"
            )
        return
    for sentence in found["trouble"]:
        yield warning("gpu", sentence, "install the driver, and the torch built for it; until then jobs use the CPU")
    working = [device for device in found["devices"] if device["error"] is None]
    for device in found["devices"]:
        if device["error"] is not None:
            yield failed(
                "gpu", f"{device['name']}: {device['error']}", "look at `nvidia-smi`; reset or exclude that GPU"
            )
    if len(found["devices"]) and len(working) < config.trainer_processes:
        fix = "set GROUPTUNE_TRAINER_PROCESSES to the number of GPUs that each job gets"
        yield failed("gpu", f"{len(working)} GPUs for {config.trainer_processes} processes a job", fix)
    names = ", ".join(
        f"{one['name']} ({one['free_bytes'] / GB:.0f} of {one['bytes'] / GB:.0f} GB free)" for one in working
    )
    yield ok("gpu", f"torch {found['torch']}: " + (names or f"no GPU, jobs train on {found['cpus']} CPU cores"))


def _history(config: Settings, url: str) -> Iterator[DoctorFinding]:
    try:
        found = installation.breaches(url, config)
    except (DatabaseUnavailable, GrouptuneError) as error:
        yield failed("history", str(error), "mend what is above, then look again")
        return
    fix = "restore a backup, or delete what is named; if no lost disk or half a restore explains it, report it"
    for breach in found:
        yield failed("history", f"{breach.subject}: it does not hold that {breach.invariant}", fix)
    if not found:
        yield ok("history", "everything that ever happened to every job holds the invariants, and no blob is missing")


def worst(findings: list[DoctorFinding]) -> FindingLevel:
    """What all of them come to."""
    levels = {finding.level for finding in findings}
    return next(
        level
        for level in (FindingLevel.failed, FindingLevel.warning, FindingLevel.ok)
        if level in levels or level is FindingLevel.ok
    )
