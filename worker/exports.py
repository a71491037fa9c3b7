"""Makes exports of models, one at a time, each under a claim that is renewed during the work.

A subprocess without credentials makes and checks the files. The worker packs them into one archive in the blob store.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from app.core.accounts.projects import get_project
from app.core.db import Database
from app.core.errors import DatabaseUnavailable, InvalidRequest, QuotaExceeded
from app.core.exports import claims
from app.core.exports.claims import ExportClaim
from app.core.jobs import lineage, queries, quotas
from app.core.models import registry
from app.core.models.adapters import ADAPTER_FILES, CARD
from app.core.models.hub_source import hub_source
from app.core.models.tables import TrainedModel
from app.core.prometheus import EXPORTS
from app.core.secrets import KeyRing
from app.core.settings import Settings
from app.core.spec.export import (
    ExportFormat,
    ExportRefusal,
    ExportRefused,
    ExportReport,
    ExportSpec,
    Manifest,
    TrainingFacts,
)
from app.core.spec.subprocess_environment import (
    COMPUTE_ENVIRONMENT,
    DOWNLOAD_ENVIRONMENT,
    HUB_TOKEN,
    NETWORK_ENVIRONMENT,
)
from app.core.storage.blobs import BlobCorrupt, BlobMissing, BlobStore, StorageUnavailable, StoredBlob
from worker import export_archive
from worker.child_process import ChildProcess, describe_exit, log_tail
from worker.claim_keeper import CLAIM_SECONDS, ClaimKeeper, TakenOver
from worker.process_control import Drain
from worker.redaction import Redactor

log = structlog.get_logger(__name__)

SECONDS: Final = 6 * 3600.0
"""Limit of an attempt."""
_RENEW_SECONDS: Final = 2.0
"""How often progress is written, and a cancellation is read."""
_TICK_SECONDS: Final = 0.5
_OUTAGE_SECONDS: Final = 30.0
"""Wait after an outage of the blob store."""
_PROBE_ROWS: Final = 8


def _crash(reason: str) -> ExportRefused:
    """Return an error after which the export is tried again; `reason` is the end of a sentence."""
    refusal = claims.crashed(reason)
    return ExportRefused(refusal.code, refusal.message, is_temporary=True)


class _Draining(Exception):
    """The worker shuts down."""


class ExportAttempt:
    """One attempt of a claimed export."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        settings: Settings,
        ring: KeyRing,
        claim: ExportClaim,
        drain: Drain,
    ) -> None:
        self._database = database
        self._ring = ring
        self._store = store
        self._settings = settings
        self._drain = drain
        self._stage, self._progress = "Starting", 0.0
        self._ends_at = time.monotonic() + SECONDS
        self._claim = ClaimKeeper(claim, self._renew, every_seconds=_RENEW_SECONDS)
        self._directory = (settings.runs_dir / claim.export_id / f"a{claim.attempt}").absolute()
        self._log = self._directory / "log"
        self._lifetime = timedelta(days=settings.export_days)

    def run(self) -> None:
        """Make the export and store its outcome. Raises `DatabaseUnavailable`: then the claim expires."""
        claim = self._claim.current
        try:
            shutil.rmtree(self._directory.parent, ignore_errors=True)
            self._directory.mkdir(parents=True)
            outcome = self._make()
        except TakenOver:
            outcome = "taken_over"
        except _Draining:
            outcome = self._hand_back(0.0)
        except StorageUnavailable as error:
            log.warning("export.storage_unavailable", error=error.message)
            outcome = self._hand_back(_OUTAGE_SECONDS)
        except ExportRefused as error:
            outcome = self._fail(error)
        except DatabaseUnavailable:
            raise
        # The boundary of an attempt: any other error, such as a full disk, counts as a crash of the export.
        except Exception as error:
            log.exception("export.failed")
            outcome = self._fail(_crash(f"the worker failed with {type(error).__name__}: {error}"))
        finally:
            shutil.rmtree(self._directory.parent, ignore_errors=True)
        if outcome != "succeeded":
            self._store.discard(claim.blob)
        EXPORTS.labels(outcome).inc()
        log.info("export.ended", outcome=outcome)

    def _make(self) -> str:
        spec = self._prepare()
        result = self._directory / "result"
        result.mkdir()
        manifest = self._run(spec, result)
        if manifest.repository is not None:
            return self._succeed(manifest, None)
        self._report("Storing the archive", 0.95)
        stored = self._store.write(self._claim.current.blob, self._ticking(export_archive.chunks(result, manifest)))
        return self._succeed(manifest, stored)

    def _prepare(self) -> ExportSpec:
        claim = self._claim.current
        try:
            base = registry.resolve(claim.base_model, self._settings.models_dir)
        except InvalidRequest as error:
            raise ExportRefused("model_not_found", error.message) from error
        if not base.is_pulled:
            self._pull(base.name)
        source = hub_source(base.directory)
        return ExportSpec(
            model=claim.model,
            base_name=base.name,
            base_dir=base.directory.absolute(),
            base_hub_id=source.hub_id if source else None,
            base_revision=source.revision if source else None,
            adapter_dir=self._fetch_adapter(),
            format=claim.format,
            quantization=claim.options.get("quantization"),
            probe=self._fetch_probe(),
            training=self._training(),
            hub_url=self._settings.hub_url,
            **{name: value for name, value in claim.options.items() if name != "quantization"},
        )

    def _training(self) -> TrainingFacts | None:
        with self._database.reading() as session:
            adapter = session.get_one(TrainedModel, self._claim.current.model)
            found = lineage.lineage_of(session, self._claim.current.project_id, adapter)
        if found is None:
            return None
        return TrainingFacts(
            method=found.job.spec["method"],
            steps=found.job.step if adapter.step is None else adapter.step,
            trained_tokens=found.job.trained_tokens,
            seed=found.job.spec["seed"],
            hyperparameters=found.job.hyperparameters or {},
            before=found.before.values if found.before else {},
            after=found.after.values if found.after else {},
        )

    def _pull(self, name: str) -> None:
        self._report(f"Downloading the base model {name}", 0.0)
        argv = (
            sys.executable,
            "-m",
            "worker.base_models",
            "pull",
            name,
            "--models-dir",
            str(self._settings.models_dir),
        )
        child = ChildProcess(argv, self._log, environment=DOWNLOAD_ENVIRONMENT.select(os.environ))
        for _ in self._supervised(child):
            pass
        if code := child.wait():
            raise _crash(f"the download of the base model {name} {describe_exit(code)}: {self._log_tail()}")

    def _fetch_adapter(self) -> Path:
        target, claim = self._directory / "adapter", self._claim.current
        try:
            self._store.fetch_tree(claim.adapter, target, (*ADAPTER_FILES, CARD))
        except BlobCorrupt as error:
            message = f"The stored files of the model '{claim.model}' are damaged: {error.message}"
            raise ExportRefused("blob_corrupt", message) from error
        return target

    def _fetch_probe(self) -> Path | None:
        """Copy the first held-out rows of the model's job; None if the job or its file does not exist any more."""
        with self._database.reading() as session:
            file = queries.held_out_file(session, self._claim.current.model)
        if file is None:
            return None
        target = self._directory / "probe.jsonl"
        try:
            with self._store.open(file.rows[0]) as rows, target.open("wb") as out:
                out.writelines(islice(rows, _PROBE_ROWS))
        except BlobMissing:
            return None
        return target

    def _run(self, spec: ExportSpec, result: Path) -> Manifest:
        """Run the subprocess and return its manifest."""
        path = self._directory / "spec.json"
        path.write_text(spec.model_dump_json(indent=2), encoding="utf-8")
        argv = (sys.executable, "-m", "worker.exporting", str(path), str(result))
        child = ChildProcess(argv, self._log, environment=self._environment())
        manifest = None
        for line in self._supervised(child):
            report = ExportReport.model_validate_json(line)
            if report.progress is not None:
                self._report(report.progress.stage, report.progress.progress)
            if report.refusal is not None:
                refusal = report.refusal
                raise ExportRefused(refusal.code, refusal.message, is_temporary=refusal.is_temporary)
            manifest = report.manifest or manifest
        code = child.wait()
        if code or manifest is None:
            raise _crash(f"its process {describe_exit(code)}: {self._log_tail()}")
        return manifest

    def _environment(self) -> dict[str, str]:
        """Return the environment of the subprocess: only a push gets the network and a token."""
        claim, own = self._claim.current, self._settings.hub_token
        if claim.format is not ExportFormat.push:
            return COMPUTE_ENVIRONMENT.select(os.environ) | {"HF_HUB_OFFLINE": "1"}
        token = self._ring.decrypt(claim.secret) if claim.secret else own.get_secret_value() if own else ""
        # Without Xet, files travel over the hub's LFS protocol, which servers other than huggingface.co have, too.
        given = {HUB_TOKEN: token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return (COMPUTE_ENVIRONMENT | NETWORK_ENVIRONMENT).select(os.environ) | given

    def _supervised(self, child: ChildProcess) -> Iterator[bytes]:
        """Yield the lines of a subprocess while the claim is kept; kill the subprocess at the end of the iteration."""
        try:
            for line in child.lines_and_pauses(_TICK_SECONDS):
                self._tick()
                if line is not None:
                    yield line
        finally:
            child.kill()

    def _ticking(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._tick()
            yield chunk

    def _tick(self) -> None:
        """Keep the claim. Raises `TakenOver`, and ends the attempt at its time limit and when the worker drains."""
        if self._drain.begun:
            raise _Draining
        if time.monotonic() > self._ends_at:
            raise _crash(f"it took longer than {SECONDS:,.0f} s")
        self._claim.keep()

    def _log_tail(self) -> str:
        """Return the end of the log without secrets: clients read it in the export's error."""
        redactor = Redactor(self._settings, os.environ)
        if secret := self._claim.current.secret:
            redactor.add(self._ring.decrypt(secret))
        return redactor.redact(log_tail(self._log))

    def _report(self, stage: str, progress: float) -> None:
        self._stage, self._progress = stage, progress
        self._tick()

    def _renew(self, held: ExportClaim) -> ExportClaim | None:
        with self._database.transaction() as session:
            return claims.renew(session, held, CLAIM_SECONDS, self._stage, self._progress)

    def _succeed(self, manifest: Manifest, stored: StoredBlob | None) -> str:
        claim = self._claim.current
        try:
            with self._database.transaction() as session:
                own = get_project(session, claim.project_id).max_stored_bytes
                limit = self._settings.max_stored_bytes if own is None else own
                if stored is not None:
                    quotas.check_stored_bytes(session, claim.project_id, stored.bytes, limit, "export")
                held = claims.succeed(session, claim, manifest, stored, self._lifetime)
        except QuotaExceeded as error:
            raise ExportRefused("quota_exceeded", error.message) from error
        return "succeeded" if held else "taken_over"

    def _fail(self, error: ExportRefused) -> str:
        log.warning("export.failed", code=error.code, reason=error.message)
        refusal = ExportRefusal(code=error.code, message=error.message, is_temporary=error.is_temporary)
        end = claims.retry_or_fail if error.is_temporary else claims.fail
        with self._database.transaction() as session:
            held = end(session, self._claim.current, refusal, self._lifetime)
        outcome = "crashed" if error.is_temporary else "failed"
        return outcome if held else "taken_over"

    def _hand_back(self, seconds: float) -> str:
        with self._database.transaction() as session:
            held = claims.hand_back(session, self._claim.current, seconds)
        return "handed_back" if held else "taken_over"


def export_one(database: Database, store: BlobStore, settings: Settings, ring: KeyRing, drain: Drain) -> bool:
    """Make the oldest export that is due; return False if there is none. Raises `DatabaseUnavailable`."""
    lifetime = timedelta(days=settings.export_days)
    _remove_leftovers(database, settings.runs_dir)
    with database.transaction() as session:
        claim = claims.claim_next(session, CLAIM_SECONDS, lifetime)
    if claim is None:
        return False
    with structlog.contextvars.bound_contextvars(export=claim.export_id, attempt=claim.attempt):
        ExportAttempt(database, store, settings, ring, claim, drain).run()
    return True


def _remove_leftovers(database: Database, runs_dir: Path) -> None:
    """Remove the working files that killed workers of this machine left behind: they are as large as models."""
    left = {path.name: path for path in runs_dir.glob("export-*")}
    if not left:
        return
    with database.reading() as session:
        running = claims.running_among(session, left.keys())
    for name in left.keys() - running:
        shutil.rmtree(left[name], ignore_errors=True)
