"""The runner: supervises one attempt of a claimed job, from its inputs to its outcome.

The trainer is a subprocess. Its only secrets are the keys of the servers that it calls: rollouts, judge, teacher.
"""

import contextlib
import contextvars
import errno
import os
import sys
import threading
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from app.core import ids
from app.core.db import Database
from app.core.errors import DatabaseUnavailable, InvalidRequest, LostLease
from app.core.estimates.estimate import PlannedJob
from app.core.files.uploads import ReceivedFile
from app.core.jobs import attempts, controls, estimation, outcomes, queries, results
from app.core.jobs.journal import Journal, JournalEntry
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import AttemptOutcome, StopRequest
from app.core.models import registry
from app.core.models.adapters import starting_point
from app.core.prometheus import ATTEMPTS, LEASE_LOSSES
from app.core.settings import Settings
from app.core.spec.demonstrations import GradedDemonstrations
from app.core.spec.reports import Finished, Message, TrainerExit
from app.core.spec.subprocess_environment import DOWNLOAD_ENVIRONMENT, TRAINER_ENVIRONMENT
from app.core.storage.blobs import BlobStore, StorageUnavailable
from worker import tracing
from worker.child_process import ChildProcess, describe_exit, log_tail
from worker.lease import LeaseKeeper
from worker.log_shipper import LogShipper
from worker.presence import own_hardware
from worker.process_control import Drain, ProcessControl
from worker.redaction import Redactor
from worker.report_writer import ReportWriter, TrainerOutcome, retry_until_available
from worker.teacher_setup import TeacherSetup
from worker.tracker_processes import TrackerProcesses
from worker.workspace import Inputs, Workspace

log = structlog.get_logger(__name__)

TRAINER: Final = (sys.executable, "-m", "worker.training")
SAVE_GRACE_FACTOR: Final = 3.0
"""Times `cancel_grace_seconds`: the time for a pause or a drain, which finish a step and write a checkpoint."""
FATAL: Final = {
    TrainerExit.bad_config: "bad_config",
    TrainerExit.bad_data: "bad_data",
    TrainerExit.diverged: "diverged",
    TrainerExit.out_of_memory: "out_of_memory",
}
"""Exit codes after which another attempt would fail too, with the error code to use if the trainer reported none."""
BROKEN: Final = frozenset({AttemptOutcome.failed, AttemptOutcome.crashed, AttemptOutcome.lost_lease})
"""Outcomes that a trace shows as errors."""


class _DependencyDown(Exception):
    """Something that the attempt needs is unavailable; a later attempt may succeed."""

    def __init__(self, reason: str, rows: Collection[int] = ()) -> None:
        """`rows` are those of `Failed`."""
        super().__init__(reason)
        self.rows = rows


class Runner:
    """Runs one attempt of one job."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        settings: Settings,
        claim: Claim,
        *,
        claimed_at: float,
        drain: Drain,
        trainer_command: Sequence[str] = TRAINER,
    ) -> None:
        """`claimed_at` is the monotonic time just before the claim. The run directory is appended to the command."""
        self._database = database
        self._store = store
        self._settings = settings
        self._claim = claim
        self._claimed_at = claimed_at
        self._drain = drain
        self._tracer = tracing.tracer()
        self._trainer_command = trainer_command
        self._control = ProcessControl(settings.cancel_grace_seconds * SAVE_GRACE_FACTOR)
        self._journal = Journal(database, claim)
        self._workspace = Workspace(settings.runs_dir, store, claim)
        self._redactor = Redactor(settings, os.environ)
        self._trackers: TrackerProcesses | None = None
        self.gpu_is_broken = False
        """Set by `run`: whether this worker should take no more jobs."""
        self._teacher: TeacherSetup | None = None
        self._planned_job: PlannedJob | None = None
        self._hardware = own_hardware().giving(claim.processes)

    def run(self) -> None:
        """Run the attempt to its end. Failures of the job become its outcome; they are not raised."""
        claim = self._claim
        with (
            structlog.contextvars.bound_contextvars(job=claim.job_id, attempt=claim.attempt),
            self._tracer.span("attempt", parent=claim.traceparent, kind="consumer") as span,
        ):
            span.set(grouptune__job=claim.job_id, grouptune__attempt=claim.attempt, grouptune__project=claim.project_id)
            span.set(grouptune__model=claim.spec.model, grouptune__method=str(claim.spec.method))
            span.set(grouptune__waited_seconds=claim.waited_seconds)
            log.info("attempt.started")
            keeper = LeaseKeeper(self._database, self._claim, self._settings, self._control, self._claimed_at)
            try:
                with keeper, self._drain.subscribe(lambda: self._control.request(StopRequest.drain)):
                    self._attempt()
            except LostLease as error:
                log.warning("attempt.lost", error=error.message)
                LEASE_LOSSES.labels("runner").inc()
            finally:
                outcome = self._count()
                span.set(grouptune__outcome=outcome)
                if outcome in BROKEN:
                    span.fail(outcome)
                if self._trackers is not None:
                    self._trackers.close(outcome)
                self._workspace.clear()

    def _count(self) -> str:
        """Count and return the outcome that the database holds; `unknown` while the database is unavailable."""
        try:
            with self._database.transaction() as session:
                # An attempt without an outcome has lost its lease, and no sweep has recorded that yet.
                outcome = attempts.outcome_of(session, self._claim.job_id, self._claim.attempt) or "lost_lease"
        except DatabaseUnavailable:
            outcome = "unknown"
        ATTEMPTS.labels(outcome).inc()
        log.info("attempt.ended", outcome=outcome)
        return outcome

    def _attempt(self) -> None:
        try:
            self._workspace.create()
            with LogShipper(self._database, self._claim, self._control, self._workspace.log, self._redactor):
                with self._tracer.span("attempt.prepare"):
                    base_model = self._prepare()
                if self._control.reason is None:
                    with self._tracer.span("attempt.train"):
                        ended = self._train()
                else:
                    ended = None
            if ended is None:
                self._stopped(self._control.reason or StopRequest.drain)
                return
            with self._tracer.span("attempt.conclude"):
                self._conclude(*ended, base_model)
        except LostLease:
            raise
        except InvalidRequest as error:
            code_name = error.code or "bad_config"
            message, param = error.message, error.param
            self._write(lambda s: outcomes.fail(s, self._claim, code_name, message, param))
        except _DependencyDown as error:
            self._wait(str(error), error.rows)
        except StorageUnavailable as error:
            self._wait(str(error))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self._crashed(error)
            else:
                self._wait(f"The worker's disk is full: {error}")
        # The boundary of an attempt: any other error counts as a crash of the job and is reported in its events.
        except Exception as error:
            self._crashed(error)

    def _log_tail(self) -> str:
        return self._redactor.redact(log_tail(self._workspace.log))

    def _wait(self, reason: str, rows: Collection[int] = ()) -> None:
        self._write(lambda s: outcomes.wait_for_dependency(s, self._claim, reason, rows))

    def _crashed(self, error: Exception) -> None:
        log.exception("attempt.crashed")
        reason = f"The runner failed with {type(error).__name__}: {error}"
        self._write(lambda s: outcomes.crash(s, self._claim, reason, self._log_tail()))

    def _prepare(self) -> str:
        """Fill the workspace; return the base model's canonical name."""
        inputs = retry_until_available(self._control, self._inputs)
        model = registry.resolve(inputs.base_model, self._settings.models_dir)
        if not model.is_pulled:
            self._pull(model.name)
        teacher = self._teacher = retry_until_available(
            self._control, lambda: TeacherSetup.of(self._database, self._claim, self._settings)
        )
        if teacher is not None and teacher.api_key is not None:
            self._redactor.add(teacher.api_key)
        if teacher is None:
            damaged = self._workspace.fill(inputs, model.directory, self._settings)
        else:
            base = teacher.place.base_model
            if base is not None and not base.is_pulled:
                self._pull(base.name)
            fill = partial(teacher.fill, retry=partial(retry_until_available, self._control))
            damaged = self._workspace.fill(inputs, model.directory, self._settings, fill)
        for sentence in damaged:
            self._report(Message(level="warn", message=sentence))
        self._estimate(model.name, inputs)
        return model.name

    def _estimate(self, base_model: str, inputs: Inputs) -> None:
        """Estimate the job on this machine, to predict its end and to calibrate later estimates."""
        files = estimation.JobFiles(inputs.training, inputs.validation, inputs.test)
        models_dir = self._settings.models_dir
        spec, share = self._claim.spec, inputs.passing_share
        self._planned_job = planned = estimation.try_plan(
            self._store, spec, base_model, files, models_dir, share, inputs.budget_of
        )
        if planned is not None:
            self._write(lambda s: estimation.store_for_worker(s, self._claim, planned, self._hardware))

    def _pull(self, name: str) -> None:
        self._report(Message(message=f"Downloading base model {name}"))
        models_dir = str(self._settings.models_dir)
        argv = (sys.executable, "-m", "worker.base_models", "pull", name, "--models-dir", models_dir)
        child = ChildProcess(argv, self._workspace.log, environment=DOWNLOAD_ENVIRONMENT.select(os.environ))
        with self._control.running(child):
            for line in child.lines():
                log.info("base_model.pulled", directory=line.decode(errors="replace").strip())
            code = child.wait()
        self._control.check()
        if code != 0 and self._control.reason is None:
            tail = self._log_tail().strip().rpartition("\n")[2]
            raise _DependencyDown(f"The base model {name} could not be downloaded ({tail})")

    def _inputs(self) -> Inputs:
        project, validation, test = self._claim.project_id, self._claim.validation_file, self._claim.test_file
        with self._database.transaction() as session:
            base, adapter = starting_point(session, project, self._claim.spec.model, self._settings.models_dir)
            job = queries.get_job(session, project, self._claim.job_id)
            return Inputs(
                base,
                None if adapter is None else adapter.blob,
                queries.job_file(session, project, self._claim.training_file, "training_file"),
                queries.job_file(session, project, validation, "validation_file") if validation else None,
                queries.job_file(session, project, test, "test_file") if test else None,
                tuple(queries.latest_checkpoints(session, self._claim.job_id)),
                job.rows or {},
                None if job.demonstrations is None else GradedDemonstrations.model_validate(job.demonstrations),
                tuple(job.rejected_lines or ()),
                estimation.passing_share(job) if self._claim.spec.grades_demonstrations else None,
                controls.budget_of(session, job),
            )

    def _train(self) -> tuple[int, TrainerOutcome]:
        trackers = self._trackers = TrackerProcesses(self._claim, self._settings, self._workspace.path, self._complain)
        writer = ReportWriter(self._journal, self._store, self._claim, self._control, trackers.offer)
        # Started by this thread, which outlives the trainer: the kernel kills it when the creating thread ends.
        argv = (*self._trainer_command, str(self._workspace.path))
        environment = TRAINER_ENVIRONMENT.select(os.environ) | (self._teacher.environment if self._teacher else {})
        child = ChildProcess(argv, self._workspace.log, environment=environment)
        with self._control.running(child):
            reader = threading.Thread(
                target=contextvars.copy_context().run,
                args=(writer.read, child),
                name=f"reader-{self._claim.job_id}",
                daemon=True,
            )
            reader.start()
            outcome = writer.run()
            return child.wait(), outcome

    def _conclude(self, code: int, outcome: TrainerOutcome, base_model: str) -> None:
        self._control.check()
        reason = self._control.reason
        log.info("trainer.ended", exit_code=code, stop=reason and str(reason))
        if reason is StopRequest.cancel:
            self._stopped(reason)
        elif code == TrainerExit.succeeded and outcome.finished is not None:
            self._succeed(outcome.finished, base_model)
        elif code in FATAL:
            self._fail(TrainerExit(code), outcome)
        elif reason is not None or code == TrainerExit.stopped:
            self._stopped(reason or StopRequest.drain)
        elif code == TrainerExit.dependency_down:
            if outcome.failed is None:
                raise _DependencyDown("A dependency of the job is unavailable")
            raise _DependencyDown(outcome.failed.message, outcome.failed.rows)
        elif code == TrainerExit.gpu_fault:
            self.gpu_is_broken = True
            fault = outcome.failed.message if outcome.failed else "The GPU is broken"
            self._write(lambda s: outcomes.gpu_fault(s, self._claim, fault, self._log_tail()))
        else:
            sentence = f"The trainer {describe_exit(code)}"
            self._write(lambda s: outcomes.crash(s, self._claim, sentence, self._log_tail()))

    def _succeed(self, finished: Finished, base_model: str) -> None:
        blob = f"jobs/{self._claim.job_id}/a{self._claim.attempt}/adapter"
        self._store.put_tree(blob, Path(finished.path))
        metrics_csv = retry_until_available(self._control, self._store_metrics)
        if (planned := self._planned_job) is not None:
            self._write(lambda s: estimation.store_measured(s, self._claim, planned, self._hardware))
        self._write(lambda s: outcomes.succeed(s, self._claim, finished, blob, base_model, metrics_csv))
        log.info("job.succeeded")

    def _store_metrics(self) -> ReceivedFile:
        file_id = ids.file_id()
        blob = f"jobs/{self._claim.job_id}/a{self._claim.attempt}/{file_id}"
        with self._database.transaction() as session:
            metrics = queries.list_metrics(session, self._claim.job_id)
        stored = self._store.write(blob, results.csv_chunks(metrics))
        return ReceivedFile(file_id, blob, stored.bytes, stored.sha256)

    def _fail(self, code: TrainerExit, outcome: TrainerOutcome) -> None:
        failed = outcome.failed
        name = failed.code if failed else FATAL[code]
        message = failed.message if failed else f"The trainer failed without an error report.\n{self._log_tail()}"
        self._write(lambda s: outcomes.fail(s, self._claim, name, message, failed.param if failed else None))

    def _stopped(self, reason: StopRequest) -> None:
        self._write(lambda s: outcomes.stop(s, self._claim, reason))

    def _report(self, message: Message) -> None:
        retry_until_available(self._control, partial(self._journal.record, [JournalEntry(message)]))

    def _complain(self, sentence: str) -> None:
        """Add a warning to the job's events; dropped while the database is unavailable."""
        with contextlib.suppress(LostLease, DatabaseUnavailable):
            self._journal.message(Message(level="warn", message=sentence))

    def _write(self, ending: outcomes.Ending) -> None:
        """Run `ending` in a transaction, retried until the database is available. Raises `LostLease`."""

        def once() -> None:
            with self._database.transaction() as session:
                ending(session)

        retry_until_available(self._control, once)
