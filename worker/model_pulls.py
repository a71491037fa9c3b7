"""Downloads base models that clients order, in a subprocess, under a claim that is renewed during the download."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import structlog

from app.core.db import Database
from app.core.models import pulls
from app.core.models.pulls import PullClaim
from app.core.models.sources import Progress
from app.core.settings import Settings
from app.core.spec.subprocess_environment import DOWNLOAD_ENVIRONMENT
from worker.base_models import remove_draft
from worker.child_process import ChildProcess, describe_exit, log_tail
from worker.claim_keeper import CLAIM_SECONDS, ClaimKeeper, TakenOver
from worker.process_control import Drain
from worker.redaction import Redactor

log = structlog.get_logger(__name__)

_RENEW_SECONDS: Final = 1.0
"""How often progress is written, and a cancellation is read."""
_TICK_SECONDS: Final = 0.5


class _Draining(Exception):
    """The worker shuts down."""


class PullAttempt:
    """One attempt of a claimed pull."""

    def __init__(self, database: Database, settings: Settings, claim: PullClaim, drain: Drain) -> None:
        self._database = database
        self._settings = settings
        self._drain = drain
        self._progress = Progress("Starting")
        self._claim = ClaimKeeper(claim, self._renew, every_seconds=_RENEW_SECONDS)

    def run(self) -> None:
        """Download the model and store the outcome. Raises `DatabaseUnavailable`: then the claim expires."""
        name = self._claim.current.name
        try:
            error = self._download()
        except TakenOver:  # cancelled, or claimed by another worker
            outcome = "taken_over"
        except _Draining:
            with self._database.transaction() as session:
                pulls.hand_back(session, self._claim.current)
            outcome = "handed_back"
        else:
            with self._database.transaction() as session:
                pulls.settle(session, self._claim.current, error)
            outcome = "failed" if error else "succeeded"
        remove_draft(name, self._settings.models_dir)
        log.info("model_pull.ended", outcome=outcome, model=name)

    def _download(self) -> str | None:
        """Return why the download failed, None if the model is complete."""
        claim, models_dir = self._claim.current, self._settings.models_dir
        source = claim.hub_id if "/" in claim.hub_id else claim.name
        argv = (sys.executable, "-m", "worker.base_models", "pull", source, "--json", "--models-dir", str(models_dir))
        error = None
        with tempfile.TemporaryDirectory(prefix="grouptune-pull-") as directory:
            log_file = Path(directory) / "log"
            child = ChildProcess(argv, log_file, environment=DOWNLOAD_ENVIRONMENT.select(os.environ))
            try:
                for line in child.lines_and_pauses(_TICK_SECONDS):
                    if line is not None:
                        message: dict[str, Any] = json.loads(line)
                        error = message.get("error", error)
                        self._progress = self._progress if "error" in message else Progress(**message)
                    if self._drain.begun:
                        raise _Draining
                    self._claim.keep()
            finally:
                child.kill()
                code = child.wait()  # from now on its lock is free, and its files can be removed
            tail = Redactor(self._settings, os.environ).redact(log_tail(log_file))
        return error or (f"The download of {claim.name} {describe_exit(code)}: {tail}" if code else None)

    def _renew(self, held: PullClaim) -> PullClaim | None:
        with self._database.transaction() as session:
            return pulls.renew(session, held, CLAIM_SECONDS, self._progress)


def pull_one(database: Database, settings: Settings, drain: Drain) -> bool:
    """Download the base model of the oldest pull that is due; return False if there is none."""
    with database.transaction() as session:
        claim = pulls.claim_next(session, CLAIM_SECONDS)
    if claim is None:
        return False
    PullAttempt(database, settings, claim, drain).run()
    return True
