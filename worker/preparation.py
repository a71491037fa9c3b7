"""Fetches what an attempt needs onto its worker: base model, data files, checkpoint, teacher."""

import os
import sys
from collections.abc import Callable
from functools import partial

import structlog

from app.core.db import Database
from app.core.jobs import controls, estimation, queries
from app.core.jobs.leases import Claim
from app.core.models import registry
from app.core.models.adapters import starting_point
from app.core.settings import Settings
from app.core.spec.demonstrations import GradedDemonstrations
from app.core.spec.reports import Message
from app.core.spec.subprocess_environment import DOWNLOAD_ENVIRONMENT
from worker.child_process import ChildProcess, log_tail
from worker.process_control import ProcessControl
from worker.redaction import Redactor
from worker.report_writer import retry_until_available
from worker.teacher_setup import TeacherSetup
from worker.workspace import Inputs, Workspace

log = structlog.get_logger(__name__)


class DependencyDown(Exception):
    """Something that the attempt needs is unavailable; a later attempt may succeed."""


class Preparation:
    """Prepares one attempt on one worker."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        claim: Claim,
        control: ProcessControl,
        workspace: Workspace,
        redactor: Redactor,
        report: Callable[[Message], None],
    ) -> None:
        """`report` gets a message for the job's events."""
        self._database = database
        self._settings = settings
        self._claim = claim
        self._control = control
        self._workspace = workspace
        self._redactor = redactor
        self._report = report
        self._teacher: TeacherSetup | None = None

    @property
    def teacher_environment(self) -> dict[str, str]:
        """The variables of the trainer for the job's teacher."""
        return dict(self._teacher.environment) if self._teacher else {}

    def run(self) -> tuple[str, Inputs]:
        """Fill the workspace; return the base model's canonical name and the inputs.

        Raises `DependencyDown`, `StorageUnavailable`, and `InvalidRequest` for inputs that are gone or damaged.
        """
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
        return model.name, inputs

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
            tail = self._redactor.redact(log_tail(self._workspace.log)).strip().rpartition("\n")[2]
            raise DependencyDown(f"The base model {name} could not be downloaded ({tail})")

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
