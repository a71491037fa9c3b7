"""The directory of one attempt: its verified inputs and `spec.json`, which is all that the trainer reads."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.files.tables import File
from app.core.jobs import queries
from app.core.jobs.leases import Claim
from app.core.jobs.tables import Checkpoint
from app.core.models import registry
from app.core.models.hub_source import hub_source
from app.core.settings import Settings
from app.core.spec.demonstrations import GradedDemonstrations
from app.core.spec.job import JobSpec, TrainerSpec
from app.core.storage.blobs import BlobCorrupt, BlobMissing, BlobStore

log = structlog.get_logger(__name__)

LOG_NAME: Final = "trainer.log"


@dataclass(frozen=True)
class Inputs:
    """What the attempt trains on."""

    base_model: str
    adapter: str | None
    """Blob of the trained model to start from."""
    training: File
    validation: File | None
    test: File | None
    checkpoints: tuple[Checkpoint, ...]
    """Checkpoints to resume from, newest first."""
    rows: dict[str, Any]
    """The use of the files' rows as counted before; empty if it was not."""
    demonstrations: GradedDemonstrations | None = None
    """The grades of earlier attempts."""
    rejected_lines: tuple[int, ...] = ()
    """Lines whose demonstration earlier attempts have rejected."""
    passing_share: float | None = None
    """Share of the demonstrations that pass the grader, if only those are trained and it is known."""
    budget_of: JobSpec | None = None
    """The job that decides the budget, of a control."""


class Workspace:
    """`RUNS_DIR/<job>/a<attempt>`."""

    def __init__(self, runs_dir: Path, store: BlobStore, claim: Claim) -> None:
        node = f"-n{claim.node}" if claim.node else ""  # workers of one attempt may share a machine
        self.path = (runs_dir / claim.job_id / f"a{claim.attempt}{node}").absolute()
        self.log = self.path / LOG_NAME
        self._store = store
        self._claim = claim
        self.resume_step = 0
        """Step of the checkpoint that `fill` has fetched; 0 without one."""

    def create(self) -> None:
        """Create the directory; remove inputs that killed attempts left behind."""
        self.path.mkdir(parents=True, exist_ok=True)
        for directory in self.path.parent.iterdir():
            if directory == self.path or _attempt(directory) != _attempt(self.path):
                _clear(directory)

    def fill(
        self,
        inputs: Inputs,
        base_model_dir: Path,
        settings: Settings,
        teach: Callable[[Path, Path], dict[str, Any]] = lambda _directory, _training: {},
    ) -> list[str]:
        """Fetch all inputs and write `spec.json`; return a sentence for each damaged checkpoint.

        `teach` gets this directory and the training file; it returns the fields for the job's teacher.
        Raises `InvalidRequest` when a data file or the adapter to start from is missing or damaged.
        """
        resume_from, damaged = self._fetch_checkpoint(inputs.checkpoints)
        adapter = self._fetch_adapter(inputs.adapter)
        training = self._fetch(inputs.training, "training_file")
        source = hub_source(base_model_dir)
        spec = TrainerSpec(
            job_id=self._claim.job_id,
            attempt=self._claim.attempt,
            spec=self._claim.spec,
            base_model_dir=str(base_model_dir.absolute()),
            base_hub_id=source.hub_id if source else None,
            base_revision=source.revision if source else None,
            context_length=registry.context_length(base_model_dir),
            created_at=self._claim.created_at,
            adapter_path=str(adapter) if adapter else None,
            training_path=str(training),
            validation_path=str(self._fetch(inputs.validation, "validation_file")) if inputs.validation else None,
            test_path=str(self._fetch(inputs.test, "test_file")) if inputs.test else None,
            rows=inputs.rows,
            demonstrations=inputs.demonstrations,
            rejected_lines=inputs.rejected_lines,
            resume_from=str(resume_from) if resume_from else None,
            budget_of=inputs.budget_of,
            threads=settings.trainer_threads,
            processes=self._claim.processes,
            nodes=self._claim.nodes,
            node=self._claim.node,
            rollout_urls=settings.rollout_url,
            rollout_shares_device=settings.rollout_shares_device,
            judge_url=settings.judge_url,
            allowed_private_hosts=settings.allowed_private_hosts,
            **teach(self.path, training),
        )
        (self.path / "spec.json").write_text(spec.model_dump_json(by_alias=True, indent=2), encoding="utf-8")
        return damaged

    def clear(self) -> None:
        """Remove everything except the log and the spec."""
        _clear(self.path)

    def _fetch(self, file: File, param: str) -> Path:
        target = self.path / f"{param}.jsonl"
        try:
            blob, sha256 = file.rows
            digest = self._store.fetch(blob, target)
        except BlobMissing as error:
            raise InvalidRequest(error.message, param=param, code="invalid_file") from error
        if digest != sha256:
            raise InvalidRequest(
                f"The stored content of the file '{file.id}' has changed since its upload; upload it again.",
                param=param,
                code="invalid_file",
            )
        return target

    def _fetch_adapter(self, blob: str | None) -> Path | None:
        if blob is None:
            return None
        target = self.path / "start"
        try:
            self._store.fetch_tree(blob, target)
        except BlobCorrupt as error:
            raise InvalidRequest(
                f"The stored files of the model '{self._claim.spec.model}' are damaged: {error.message}", param="model"
            ) from error
        return target

    def _fetch_checkpoint(self, checkpoints: tuple[Checkpoint, ...]) -> tuple[Path | None, list[str]]:
        """Return the newest complete checkpoint, and a sentence for each newer one that is damaged."""
        damaged: list[str] = []
        for checkpoint in checkpoints:
            target = self.path / "resume" / f"step-{checkpoint.step:08d}"
            try:
                self._store.fetch_tree(checkpoint.blob, target)
            except BlobCorrupt as error:
                log.warning("checkpoint.damaged", step=checkpoint.step, error=error.message)
                damaged.append(f"The checkpoint at step {checkpoint.step} is damaged and skipped: {error.message}")
            else:
                self.resume_step = checkpoint.step
                return target, damaged
        return None, damaged


def remove_leftovers(database: Database, runs_dir: Path) -> None:
    """Remove the inputs of attempts whose worker was killed and whose job does not run again, such as cancelled ones.

    Other attempts on this machine keep theirs. Raises `DatabaseUnavailable`.
    """
    left = [path for path in runs_dir.glob("ftjob-*/a*") if any(_inputs(path))]
    if not left:
        return
    with database.reading() as session:
        running = queries.running_attempts(session, {path.parent.name for path in left})
    for path in left:
        if _attempt(path) != f"a{running.get(path.parent.name)}":
            log.info("attempt.inputs_removed", path=str(path))
            _clear(path)


def _attempt(directory: Path) -> str:
    """Return the attempt of a directory, such as `a2`, which several workers on this machine may run."""
    return directory.name.partition("-")[0]


def _inputs(directory: Path) -> Iterator[Path]:
    """Yield everything in the directory of an attempt except the files that stay."""
    with suppress(FileNotFoundError, NotADirectoryError):  # removed by another worker
        yield from (child for child in directory.iterdir() if child.is_dir() or child.suffix == ".jsonl")


def _clear(directory: Path) -> None:
    for child in list(_inputs(directory)):
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)
