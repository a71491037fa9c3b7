"""The runner of a member: supervises the trainer of a worker that joined an attempt which another worker leads.

It writes no event, metric or checkpoint; only how its trainer ended, from which the leader concludes the attempt.
"""

import errno
import os
from functools import partial
from typing import Final

import structlog
from pydantic import ValidationError

from app.core.errors import InvalidRequest, LostLease
from app.core.jobs import members
from app.core.jobs.members import MemberEnd
from app.core.spec.reports import Failed, TrainerExit, report_adapter
from app.core.spec.subprocess_environment import RENDEZVOUS, TRAINER_ENVIRONMENT
from app.core.storage.blobs import StorageUnavailable
from worker.attempt_runner import AttemptRunner
from worker.child_process import ChildProcess
from worker.preparation import DependencyDown, Preparation
from worker.report_writer import retry_until_available

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0


class MemberRunner(AttemptRunner):
    """Runs the part of one attempt that belongs to a further worker."""

    def run(self) -> None:
        """Run this worker's part to its end. Failures are stored for the leader; they are not raised."""
        claim = self._claim
        with structlog.contextvars.bound_contextvars(job=claim.job_id, attempt=claim.attempt, node=claim.node):
            log.info("member.started")
            try:
                with self._holding_lease():
                    end = self._end()
                    log.info("member.ended", exit_code=end.exit_code)
                    self._write(partial(members.note_end, claim=claim, end=end))
            except LostLease as error:
                log.warning("member.lost", error=error.message)
            finally:
                self._leave()

    def _end(self) -> MemberEnd:
        """Prepare and train; return how that ended. Raises `LostLease`."""
        try:
            self._workspace.create()
            preparation = Preparation(
                self._database,
                self._settings,
                self._claim,
                self._control,
                self._workspace,
                self._redactor,
                lambda message: log.info("member.prepares", message=message.message),
            )
            preparation.run()
            endpoint = self._meet() if self._control.reason is None else None
            if endpoint is None:
                return MemberEnd(exit_code=TrainerExit.stopped)
            return self._train(preparation.teacher_environment | {RENDEZVOUS: endpoint})
        except LostLease:
            raise
        except InvalidRequest as error:
            failed = Failed(code=error.code or "bad_config", message=error.message, param=error.param)
            return MemberEnd(exit_code=TrainerExit.bad_config, failed=failed)
        except (DependencyDown, StorageUnavailable) as error:
            return self._dependency_down(str(error))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                return self._crashed(error)
            return self._dependency_down(f"The disk of worker {self._name} is full: {error}")
        # The boundary of an attempt: the leader reports any other error in the job's events.
        except Exception as error:
            return self._crashed(error)

    @property
    def _name(self) -> str:
        return f"{self._claim.node} ({os.uname().nodename})"

    def _dependency_down(self, reason: str) -> MemberEnd:
        return MemberEnd(exit_code=TrainerExit.dependency_down, failed=Failed(code="dependency_down", message=reason))

    def _crashed(self, error: Exception) -> MemberEnd:
        log.exception("member.crashed")
        tail = f"The runner failed with {type(error).__name__}: {error}\n{self._log_tail()}"
        return MemberEnd(exit_code=1, log_tail=tail)

    def _meet(self) -> str | None:
        """Report that this worker is ready; return where the trainers meet, None after a stop request."""
        self._write(partial(members.note_ready, claim=self._claim, step=self._workspace.resume_step))
        while self._control.reason is None:
            endpoint = retry_until_available(self._control, self._endpoint)
            if endpoint is not None:
                return endpoint
            self._control.pause_for(POLL_SECONDS)
        return None

    def _endpoint(self) -> str | None:
        with self._database.reading() as session:
            return members.endpoint_of(session, self._claim)

    def _train(self, environment: dict[str, str]) -> MemberEnd:
        argv = (*self._trainer_command, str(self._workspace.path))
        variables = TRAINER_ENVIRONMENT.select(os.environ) | environment
        child = ChildProcess(argv, self._workspace.log, environment=variables)
        failed: Failed | None = None
        with self._control.running(child):
            for line in child.lines():
                try:
                    report = report_adapter.validate_json(line)
                except ValidationError:
                    log.warning("trainer.bad_line", line=line[:200].decode(errors="replace"))
                    continue
                if isinstance(report, Failed):
                    failed = report
            code = child.wait()
        self._control.check()
        if code == TrainerExit.succeeded:
            return MemberEnd(exit_code=code)
        self.gpu_is_broken = code == TrainerExit.gpu_fault
        return MemberEnd(exit_code=code, failed=failed, log_tail=self._log_tail())
