"""What is checked about a job before it is accepted: creating raises the first problem, validating lists all."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.egress.ip_policy import PrivateHosts
from app.core.errors import InvalidRequest
from app.core.files.duplicates import PromptIndex
from app.core.files.tables import File, FileStatus
from app.core.files.uploads import TRAINING_PURPOSE, find_file
from app.core.files.validation_report import FileReport
from app.core.jobs import gates, quotas
from app.core.models import aliases
from app.core.models.adapters import starting_point
from app.core.spec.graders import BaseGrader, missing_fields
from app.core.spec.job import GroupMethod, JobSpec, MethodType
from app.core.teachers import locations


def check_file(session: Session, project_id: str, spec: JobSpec, file_id: str, param: str) -> None:
    """Raises `InvalidRequest` with `param` when the job cannot use the file.

    A file that is not validated yet is taken on trust; `lifecycle.admit_validated` checks it later. One of another
    project does not exist here.
    """
    file = find_file(session, project_id, file_id)
    if file is None:
        raise InvalidRequest(
            f"There is no file '{file_id}' in this project. Upload one with purpose '{TRAINING_PURPOSE}' and send its "
            "id.",
            param=param,
            code="file_not_found",
        )
    if file.purpose != TRAINING_PURPOSE:
        raise InvalidRequest(
            f"The file '{file_id}' has the purpose '{file.purpose}'; upload it with purpose '{TRAINING_PURPOSE}'.",
            param=param,
            code="invalid_file",
        )
    check_validated(spec, file, param)


def check_trackers(spec: JobSpec, allowed: Collection[str]) -> None:
    """Raises `InvalidRequest` for the first tracker that the operator does not allow."""
    for at, one in enumerate(spec.integrations):
        if one.type not in allowed:
            offered = f"use {' or '.join(sorted(allowed))}, or leave it out" if allowed else "leave it out"
            raise InvalidRequest(
                f"The tracker '{one.type}' is not set up on this server: {offered}, or ask the operator for it "
                "(GROUPTUNE_TRACKERS). GET /v1/fine_tuning/jobs/{id}/metrics has the same numbers.",
                param=f"integrations.{at}.type",
                code="tracker_not_available",
            )


def check_validated(spec: JobSpec, file: File, param: str) -> None:
    """Raises `InvalidRequest` when the file's report, if any yet, says that `spec` cannot train on it."""
    if file.status == FileStatus.error:
        raise InvalidRequest(f"The file '{file.id}' has errors. {_first_error(file)}", param=param, code="invalid_file")
    if file.status != FileStatus.processed or file.report is None:
        return
    report = FileReport.model_validate(file.report)
    if param == "training_file":
        _check_rows(spec, file.id, report)
    _check_grader(spec, file.id, report, param)


def _first_error(file: File) -> str:
    if file.report is not None:
        return FileReport.model_validate(file.report).summary()
    return file.status_details or "See its report."


def _check_rows(spec: JobSpec, file_id: str, report: FileReport) -> None:
    group = spec.group
    teachers = report.rows if spec.teacher else report.teacher_rows
    has_rows = (group.expert and report.expert_rows) or (group.teacher and teachers) or group.self_
    if has_rows and report.rows:
        if group.teacher and not teachers and not group.self_:
            raise InvalidRequest(
                f"group.teacher is {group.teacher}, but the file '{file_id}' brings no `teacher_responses`, so that "
                "each demonstration would be alone in its group: name a `teacher` to ask, add `teacher_responses` to "
                "the rows, or set group.self to at least 1.",
                param="method.gft.teacher",
                code="missing_teacher",
            )
        return
    match spec.method:
        case MethodType.supervised | MethodType.dft:
            needed = "whose `messages` end with an assistant message, the demonstration to learn from"
        case _:
            needed = "with a demonstration or `teacher_responses`, a `teacher`, or rollouts (group.self at least 1)"
    raise InvalidRequest(
        f"The method '{spec.method}' needs rows {needed}; the file '{file_id}' has none.",
        param="training_file",
        code="invalid_file",
    )


def _check_grader(spec: JobSpec, file_id: str, report: FileReport, param: str) -> None:
    grader = spec.settings.grader
    # Demonstrations are learnt without a grader: there it reads the held-out rows only.
    if grader is None or (param == "training_file" and not isinstance(spec.settings, GroupMethod)):
        return
    _check_fields(grader, file_id, report, f"method.{spec.method}.grader")


def check_fields(grader: BaseGrader, file: File, param: str) -> None:
    """Raises `InvalidRequest` below `param` when the grader reads a field that some rows of the file lack."""
    if file.report is not None:
        _check_fields(grader, file.id, FileReport.model_validate(file.report), param)


def _check_fields(grader: BaseGrader, file_id: str, report: FileReport, param: str) -> None:
    everywhere = {name for name, rows in report.item_fields.items() if rows == report.rows}
    missing = missing_fields(grader, everywhere)
    if not missing:
        return
    path, field = missing[0]
    having = report.item_fields.get(field, 0)
    raise InvalidRequest(
        f"The grader reads item.{field}, which {having:,} of {report.rows:,} rows of the file '{file_id}' "
        "have. "
        f"Add it to every row, or use one of: {', '.join(sorted(everywhere)) or 'none is in every row'}.",
        param=f"{param}.{path}",
        code="missing_item_field",
    )


_SHOWN: Final = 5


@dataclass(frozen=True)
class Overlap:
    """Held-out rows whose prompt is trained on."""

    held_out_rows: int
    shared: tuple[tuple[int, int], ...]
    """A line of the held-out file and the first one of the training file with its prompt."""

    def __str__(self) -> str:
        places = ", ".join(f"line {line} is line {there} there" for line, there in self.shared[:_SHOWN])
        more = ", ..." if len(self.shared) > _SHOWN else ""
        return (
            f"{len(self.shared):,} of {self.held_out_rows:,} held-out rows have a prompt that the training file has "
            f"too ({places}{more}): results on them look better than they are. Drop them from one of the files."
        )


def find_overlap(session: Session, training_file: str, validation_file: str | None) -> Overlap | None:
    """None when they share no prompt, and while one of them has no index: it is not validated yet, or was before."""
    if validation_file is None:
        return None
    files = select(File.id, File.prompts).where(File.id.in_([training_file, validation_file]))
    indices = {row.id: PromptIndex.from_bytes(row.prompts) for row in session.execute(files) if row.prompts}
    training, held_out = indices.get(training_file), indices.get(validation_file)
    if training is None or held_out is None:
        return None
    shared = held_out.shared_with(training)
    return Overlap(len(held_out), tuple(shared)) if shared else None


@dataclass(frozen=True)
class Application:
    """A job that somebody asks for; its model is named as they name it."""

    model: str
    to_spec: Callable[[str], JobSpec]
    """The spec on the model with this canonical name."""
    training_file: str
    validation_file: str | None
    priority: int


@dataclass(frozen=True)
class Teachers:
    """Where the operator lets teachers be."""

    operators_url: str | None
    allowed_private_hosts: PrivateHosts


@dataclass(frozen=True)
class Examined:
    """What an application means, and what is wrong with it."""

    spec: JobSpec
    base_model: str | None
    """Canonical name; None when there is no such model."""
    problems: list[InvalidRequest]


def examine(
    session: Session,
    project_id: str,
    asked: Application,
    models_dir: Path,
    operator_aliases: Mapping[str, str],
    trackers: Collection[str],
    max_priority: int,
    teachers: Teachers,
) -> Examined:
    """Checks an application against models, files and the project's limit of priority.

    Until the transaction ends nobody deletes its model.
    """
    problems: list[InvalidRequest] = []
    base, model = None, asked.model
    try:
        base, adapter = starting_point(session, project_id, asked.model, models_dir, operator_aliases)
        model = base if adapter is None else adapter.id
    except InvalidRequest as error:
        problems.append(error)
    spec = asked.to_spec(model)
    wanted = [partial(gates.check_measurable, spec, asked.validation_file)]
    wanted.append(partial(check_trackers, spec, trackers))
    wanted.append(partial(quotas.check_priority, asked.priority, max_priority))
    if spec.teacher is not None:
        wanted.append(
            partial(locations.check, spec.teacher, models_dir, teachers.operators_url, teachers.allowed_private_hosts)
        )
    if spec.alias is not None:
        wanted.append(partial(aliases.check_name, spec.alias, models_dir, operator_aliases))
    wanted.append(partial(check_file, session, project_id, spec, asked.training_file, "training_file"))
    if asked.validation_file is not None:
        wanted.append(partial(check_file, session, project_id, spec, asked.validation_file, "validation_file"))
    for one in wanted:
        try:
            one()
        except InvalidRequest as error:
            problems.append(error)
    return Examined(spec, base, problems)
