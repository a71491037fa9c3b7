"""The runner: supervises one attempt of a claimed job, from its inputs to its outcome.

The trainer is a subprocess. Its only secrets are the keys of the servers that it calls: rollouts, judge, teacher.
"""

import contextlib
import contextvars
import errno
import os
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
from app.core.jobs import attempts, estimation, outcomes, queries, results
from app.core.jobs.journal import Journal, JournalEntry
from app.core.jobs.leases import Claim
from app.core.jobs.members import Member
from app.core.jobs.state_machine import AttemptOutcome, StopRequest
from app.core.prometheus import ATTEMPTS, LEASE_LOSSES
from app.core.settings import Settings
from app.core.spec.reports import Failed, Finished, Message, TrainerExit
from app.core.spec.subprocess_environment import RENDEZVOUS, TRAINER_ENVIRONMENT
from app.core.storage.blobs import BlobStore, StorageUnavailable
from worker import tracing
from worker.attempt_runner import TRAINER, AttemptRunner
from worker.child_process import ChildProcess, describe_exit
from worker.gang import Gang, MemberEnded
from worker.log_shipper import LogShipper
from worker.preparation import DependencyDown, Preparation
from worker.presence import own_hardware
from worker.process_control import Drain
from worker.report_writer import ReportWriter, TrainerOutcome, retry_until_available
from worker.tracker_processes import TrackerProcesses
from worker.workspace import Inputs

log = structlog.get_logger(__name__)

FATAL: Final = {
    TrainerExit.bad_config: "bad_config",
    TrainerExit.bad_data: "bad_data",
    TrainerExit.diverged: "diverged",
    TrainerExit.out_of_memory: "out_of_memory",
}
"""Exit codes after which another attempt would fail too, with the error code to use if the trainer reported none."""
BROKEN: Final = frozenset({AttemptOutcome.failed, AttemptOutcome.crashed, AttemptOutcome.lost_lease})
"""Outcomes that a trace shows as errors."""


class Runner(AttemptRunner):
    """Runs one attempt of one job, and stores its outcome."""

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
        super().__init__(
            database, store, settings, claim, claimed_at=claimed_at, drain=drain, trainer_command=trainer_command
        )
        self._tracer = tracing.tracer()
        self._journal = Journal(database, claim)
        self._trackers: TrackerProcesses | None = None
        self._preparation = Preparation(
            database, settings, claim, self._control, self._workspace, self._redactor, self._report
        )
        self._gang = Gang(database, claim, settings, self._control) if claim.nodes > 1 else None
        self._planned_job: PlannedJob | None = None
        self._hardware = own_hardware().giving(claim.processes * claim.nodes)

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
            try:
                with self._holding_lease():
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
                self._leave()

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
                environment = self._meet() if self._control.reason is None else None
                if environment is not None:
                    with self._tracer.span("attempt.train"):
                        ended = self._train(environment)
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
        except MemberEnded as error:
            self._conclude_for(error.member)
        except (DependencyDown, StorageUnavailable) as error:
            self._wait(str(error))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self._crashed(error)
            else:
                self._wait(f"The worker's disk is full: {error}")
        # The boundary of an attempt: any other error counts as a crash of the job and is reported in its events.
        except Exception as error:
            self._crashed(error)

    def _wait(self, reason: str, rows: Collection[int] = ()) -> None:
        self._write(lambda s: outcomes.wait_for_dependency(s, self._claim, reason, rows))

    def _crashed(self, error: Exception) -> None:
        log.exception("attempt.crashed")
        reason = f"The runner failed with {type(error).__name__}: {error}"
        self._write(lambda s: outcomes.crash(s, self._claim, reason, self._log_tail()))

    def _prepare(self) -> str:
        """Fill the workspace; return the base model's canonical name."""
        base_model, inputs = self._preparation.run()
        self._estimate(base_model, inputs)
        return base_model

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

    def _meet(self) -> dict[str, str] | None:
        """Return the variables of the trainer that depend on other workers; None after a stop request."""
        if self._gang is None:
            return {}
        endpoint = self._gang.gather(self._workspace.resume_step)
        return None if endpoint is None else {RENDEZVOUS: endpoint}

    def _train(self, environment: dict[str, str]) -> tuple[int, TrainerOutcome]:
        trackers = self._trackers = TrackerProcesses(self._claim, self._settings, self._workspace.path, self._complain)
        writer = ReportWriter(self._journal, self._store, self._claim, self._control, trackers.offer)
        # Started by this thread, which outlives the trainer: the kernel kills it when the creating thread ends.
        argv = (*self._trainer_command, str(self._workspace.path))
        variables = TRAINER_ENVIRONMENT.select(os.environ) | self._preparation.teacher_environment | environment
        child = ChildProcess(argv, self._workspace.log, environment=variables)
        with self._control.running(child), self._gang.watching(child) if self._gang else contextlib.nullcontext():
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
        elif self._gang is not None and reason is None and code not in (*FATAL, TrainerExit.stopped):
            self._conclude_gang(self._gang, code, outcome)
        else:
            self._conclude_failure(code, outcome, "The trainer", self._log_tail())

    def _conclude_gang(self, gang: Gang, code: int, outcome: TrainerOutcome) -> None:
        """End the attempt for the worker that made the trainers fail: another one, if this one lost a connection."""
        is_victim = code < 0 or code == TrainerExit.peer_lost  # this runner kills a trainer that waits for a member
        member = gang.failed_member() if is_victim else None
        if member is not None:
            self._conclude_for(member)
        else:
            self._conclude_failure(code, outcome, "The trainer", self._log_tail())

    def _conclude_for(self, member: Member) -> None:
        """End the attempt as the trainer of a member ended."""
        end = member.end
        if end is not None:
            who = f"The trainer of worker {member.worker}"
            self._conclude_failure(end.exit_code, TrainerOutcome(failed=end.failed), who, end.log_tail)

    def _conclude_failure(self, code: int, outcome: TrainerOutcome, who: str, tail: str) -> None:
        reason = self._control.reason
        if code in FATAL:
            self._fail(TrainerExit(code), outcome, tail)
        elif reason is not None or code == TrainerExit.stopped:
            self._stopped(reason or StopRequest.drain)
        elif code == TrainerExit.dependency_down:
            failed = outcome.failed or Failed(code="", message="A dependency of the job is unavailable")
            self._wait(failed.message, failed.rows)
        elif code == TrainerExit.gpu_fault:
            self.gpu_is_broken = who == "The trainer"
            fault = outcome.failed.message if outcome.failed else "The GPU is broken"
            self._write(lambda s: outcomes.gpu_fault(s, self._claim, fault, tail))
        else:
            is_alone = code == TrainerExit.peer_lost and self._gang is not None
            sentence = f"{who} lost its connection to another worker" if is_alone else f"{who} {describe_exit(code)}"
            self._write(lambda s: outcomes.crash(s, self._claim, sentence, tail))

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

    def _fail(self, code: TrainerExit, outcome: TrainerOutcome, tail: str) -> None:
        failed = outcome.failed
        name = failed.code if failed else FATAL[code]
        message = failed.message if failed else f"The trainer failed without an error report.\n{tail}"
        self._write(lambda s: outcomes.fail(s, self._claim, name, message, failed.param if failed else None))

    def _stopped(self, reason: StopRequest) -> None:
        self._write(lambda s: outcomes.stop(s, self._claim, reason))

    def _report(self, message: Message) -> None:
        retry_until_available(self._control, partial(self._journal.record, [JournalEntry(message)]))

    def _complain(self, sentence: str) -> None:
        """Add a warning to the job's events; dropped while the database is unavailable."""
        with contextlib.suppress(LostLease, DatabaseUnavailable):
            self._journal.message(Message(level="warn", message=sentence))
