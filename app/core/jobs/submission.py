"""Validation of a job before it is accepted: creating a job raises the first problem, validating it lists all.

The checks against data files run again once the files are validated (`lifecycle.admit_validated`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
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
from app.core.jobs import gates, placement, quotas
from app.core.jobs.grader_services import check_services
from app.core.models import aliases, architecture, registry, stored_adapter, weights
from app.core.models.adapters import starting_point
from app.core.plurals import plural
from app.core.spec import warm_start
from app.core.spec.graders import BaseGrader, missing_fields
from app.core.spec.job import GroupMethod, JobSpec, MethodType
from app.core.storage.blobs import BlobStore
from app.core.teachers import locations
from app.core.workers import presence

_SHOWN_LINES: Final = 5


@dataclass(frozen=True)
class Notice:
    """Something that a client should know about a job that is accepted, for example a field without effect."""

    code: str
    message: str
    param: str
    """Dotted path of the field, as the client sent it."""


@dataclass(frozen=True)
class JobRequest:
    """A job as a client requests it."""

    spec: JobSpec
    """Its `model` is the name that the client sent: a base model, an alias or a trained model."""
    training_file: str
    validation_file: str | None
    priority: int
    notices: tuple[Notice, ...] = ()
    test_file: str | None = None

    @property
    def files(self) -> dict[str, str]:
        """The ids of its data files by parameter."""
        files = {
            "training_file": self.training_file,
            "validation_file": self.validation_file,
            "test_file": self.test_file,
        }
        return {param: file_id for param, file_id in files.items() if file_id is not None}


@dataclass(frozen=True)
class SubmissionLimits:
    """What the operator and the project's limits allow a job to use."""

    models_dir: Path
    model_aliases: Mapping[str, str]
    """The operator's aliases of base models."""
    trackers: Collection[str]
    """Trackers that the operator allows."""
    alive_seconds: float
    """A worker that has not reported for so long does not count."""
    max_priority: int
    teacher_url: str | None
    """Address of the operator's own teacher server."""
    judge_url: str | None
    """Address of the operator's judge server."""
    private_hosts: PrivateHosts
    """Private addresses at which teachers and reward servers may run."""


@dataclass(frozen=True)
class ValidatedJob:
    """The result of validating a job request. The job can be created if there are no problems."""

    spec: JobSpec
    """Its `model` is canonical: a base model's full name or a trained model's id."""
    base_model: str | None
    """Canonical name; None if the requested model does not exist."""
    problems: list[InvalidRequest]
    start: str | None = None
    """Blob of the adapter that the job starts from."""

    def resolve_start(self, store: BlobStore) -> "ValidatedJob":
        """Return the job with the LoRA settings of its start adapter. Call it outside of a transaction.

        Its problems include settings that differ from the adapter's, and damaged files.
        """
        if self.start is None:
            return self
        try:
            adapter = stored_adapter.read_config(store, self.spec.model, self.start, warm_start.settings_of)
        except InvalidRequest as damaged:
            return replace(self, problems=[*self.problems, damaged])
        path = f"method.{self.spec.method}.hyperparameters.lora"
        different = [
            InvalidRequest(message, param=f"{path}.{field}", code="invalid_lora")
            for field, message in warm_start.differences(self.spec.hyperparameters.lora, adapter).items()
        ]
        spec = warm_start.with_settings_of(adapter, self.spec)
        return replace(self, spec=spec, problems=[*self.problems, *different])


def validate_request(session: Session, project_id: str, request: JobRequest, limits: SubmissionLimits) -> ValidatedJob:
    """Validate a request against models, files and limits. The model cannot be deleted until the transaction ends."""
    problems: list[InvalidRequest] = []
    spec, base_model, start = request.spec, None, None
    models_dir = limits.models_dir
    try:
        base_model, spec, start = _resolve_model(session, project_id, spec, limits)
    except InvalidRequest as error:
        problems.append(error)
    checks = [
        partial(gates.check_measurable, spec, request.validation_file),
        partial(check_trackers, session, spec, limits),
        partial(placement.check, session, spec.resources, limits.alive_seconds),
        partial(quotas.check_priority, request.priority, limits.max_priority),
    ]
    if spec.teacher is not None:
        checks.append(partial(locations.check, spec.teacher, models_dir, limits.teacher_url, limits.private_hosts))
    if (grader := spec.settings.grader) is not None:
        param = f"method.{spec.method}.grader"
        checks.append(partial(check_services, grader, param, limits.judge_url, limits.private_hosts))
    if base_model is not None:
        directory = registry.resolve(base_model, models_dir).directory
        checks += [partial(check_architecture, directory), partial(check_lora, spec, directory)]
    if spec.alias is not None:
        checks.append(partial(aliases.check_name, spec.alias, models_dir, limits.model_aliases))
    checks.append(partial(check_test_file, request))
    for param, file_id in request.files.items():
        checks.append(partial(check_file, session, project_id, spec, file_id, param))
    for check in checks:
        try:
            check()
        except InvalidRequest as error:
            problems.append(error)
    return ValidatedJob(spec, base_model, problems, start)


def _resolve_model(
    session: Session, project_id: str, spec: JobSpec, limits: SubmissionLimits
) -> tuple[str, JobSpec, str | None]:
    """Return the base model, the spec with the canonical name of its model, and the blob of the start adapter."""
    base, adapter = starting_point(session, project_id, spec.model, limits.models_dir, limits.model_aliases)
    if adapter is None:
        return base, spec.model_copy(update={"model": base}), None
    return base, spec.model_copy(update={"model": adapter.id}), adapter.blob


def check_file(session: Session, project_id: str, spec: JobSpec, file_id: str, param: str) -> None:
    """Raise `InvalidRequest` with `param` if the job cannot use the file.

    A file that is not validated yet passes; `lifecycle.admit_validated` checks it later. A file of another project
    counts as missing. The file cannot be deleted until the transaction ends, so a job that is created in it keeps it.
    """
    file = find_file(session, project_id, file_id, keep=True)
    if file is None:
        raise InvalidRequest(
            f"The file '{file_id}' does not exist in this project. Upload a file with purpose '{TRAINING_PURPOSE}' "
            "and send its id.",
            param=param,
            code="file_not_found",
        )
    if file.purpose != TRAINING_PURPOSE:
        raise InvalidRequest(
            f"The file '{file_id}' has the purpose '{file.purpose}'. Upload it with purpose '{TRAINING_PURPOSE}'.",
            param=param,
            code="invalid_file",
        )
    check_validated(spec, file, param)


def check_test_file(request: JobRequest) -> None:
    """Raise `InvalidRequest` for a test file that leaves no other rows to select the adapter."""
    if request.test_file is None:
        return
    if request.validation_file is None:
        message = (
            "A test_file needs a validation_file, whose rows select the adapter. Send your held-out rows as "
            "validation_file: half of them will report, as the rows of a test_file do."
        )
    elif request.test_file == request.validation_file:
        message = (
            "The test_file is the validation_file, so the rows that select would also report. Leave test_file out: "
            "half of the validation_file will report."
        )
    else:
        return
    raise InvalidRequest(message, param="test_file", code="invalid_file")


def check_trackers(session: Session, spec: JobSpec, limits: SubmissionLimits) -> None:
    """Raise `InvalidRequest` for the first tracker that the operator does not allow, or that no worker has."""
    if not spec.integrations:
        return
    usable = presence.available_trackers(session, limits.trackers, limits.alive_seconds)
    for index, integration in enumerate(spec.integrations):
        if integration.type in usable:
            continue
        offered = f"Use {' or '.join(sorted(usable))}, leave it out," if usable else "Leave it out,"
        if integration.type in limits.trackers:
            problem = "is allowed on this server, but no worker has its library"
            cure = "install it for the workers (pip install 'grouptune[trackers]')"
        else:
            problem, cure = "is not set up on this server", "allow it (GROUPTUNE_TRACKERS)"
        raise InvalidRequest(
            f"The tracker '{integration.type}' {problem}. {offered} or ask the operator to {cure}. "
            "GET /v1/fine_tuning/jobs/{id}/metrics returns the same numbers.",
            param=f"integrations.{index}.type",
            code="tracker_not_available",
        )


def check_architecture(directory: Path) -> None:
    """Raise `InvalidRequest` for a base model in `directory` that is no causal language model."""
    if (reason := architecture.unsupported_reason(directory)) is not None:
        raise InvalidRequest(
            f"This model is not supported because {reason}. Choose another model.",
            param="model",
            code="unsupported_architecture",
        )


def check_lora(spec: JobSpec, directory: Path) -> None:
    """Raise `InvalidRequest` for a target module that the base model in `directory`, if it is there, does not have."""
    targets = spec.hyperparameters.lora.target_modules
    modules = weights.modules(directory)
    if isinstance(targets, str) or not modules or spec.lora_resolved:
        return
    missing = [target for target in targets if not any(f".{module}".endswith(f".{target}") for module in modules)]
    if not missing and "lm_head" not in targets:
        return
    usable = sorted({module.rpartition(".")[2] for module in modules} - {"embed_tokens", "lm_head"})
    problem = f"The base model has no module '{missing[0]}'." if missing else "The output head must stay frozen."
    raise InvalidRequest(
        f"{problem} Use 'all-linear', or some of: {', '.join(usable)}.",
        param=f"method.{spec.method}.hyperparameters.lora.target_modules",
        code="invalid_lora",
    )


def check_validated(spec: JobSpec, file: File, param: str) -> None:
    """Raise `InvalidRequest` if the file's validation report shows that the job cannot use the file."""
    if file.status == FileStatus.error:
        raise InvalidRequest(f"The file '{file.id}' has errors. {_first_error(file)}", param=param, code="invalid_file")
    if file.status != FileStatus.processed or file.report is None:
        return
    report = FileReport.model_validate(file.report)
    if param == "training_file":
        _check_rows(spec, file.id, report)
    elif spec.method is MethodType.dpo and not report.preference_rows and spec.settings.grader is None:
        raise InvalidRequest(
            f"The file '{file.id}' has no pairs of answers, so dpo can evaluate nothing on it. Use held-out rows with "
            "`preferred_output` and `non_preferred_output` (or `chosen` and `rejected`), or set a grader.",
            param=param,
            code="invalid_file",
        )
    _check_job_grader(spec, file.id, report, param)


def _first_error(file: File) -> str:
    if file.report is not None:
        return FileReport.model_validate(file.report).summary()
    return file.status_details or "See its report."


def _check_rows(spec: JobSpec, file_id: str, report: FileReport) -> None:
    """Raise unless some rows can form a group that trains: demonstration, teacher answer, rollouts or pair."""
    group = spec.group
    teacher_rows = report.rows if spec.teacher else report.teacher_rows
    own_rows = report.expert_rows
    if spec.train_turns == "all" and report.trained_rows is not None and not spec.grades_demonstrations:
        own_rows = report.trained_rows
    if spec.grades_demonstrations and not own_rows:
        raise InvalidRequest(
            f"The file '{file_id}' has no demonstration to grade: no row ends with an assistant message whose `weight` "
            "is not 0. Add demonstrations, or use `demonstrations` 'all'.",
            param=f"method.{spec.method}.demonstrations",
            code="no_demonstrations",
        )
    can_train = (group.expert and own_rows) or (group.teacher and teacher_rows) or group.self_
    if spec.method is MethodType.dpo:
        can_train = report.preference_rows
    if can_train and report.rows:
        # A demonstration alone in its group has no advantage: it has no other answer to be compared with.
        if group.teacher and not teacher_rows and not group.self_:
            raise InvalidRequest(
                f"group.teacher is {group.teacher}, but the file '{file_id}' has no `teacher_responses`, so each "
                "demonstration would be alone in its group. Set a `teacher`, add `teacher_responses` to the rows, or "
                "set group.self to at least 1.",
                param="method.gft.teacher",
                code="missing_teacher",
            )
        return
    match spec.method:
        case MethodType.supervised | MethodType.dft:
            needed = "with an assistant message whose `weight` is not 0, an answer to learn from"
        case MethodType.dpo:
            needed = (
                "with two answers to the same prompt (`input`, `preferred_output` and `non_preferred_output`, or "
                "`prompt`, `chosen` and `rejected`)"
            )
        case MethodType.reinforcement | MethodType.gft:
            needed = "with a demonstration or `teacher_responses`, a `teacher`, or rollouts (group.self at least 1)"
    pairs = report.preference_rows
    hint = f" It has {plural(pairs, 'pair')} of answers, which method.type 'dpo' learns from." if pairs else ""
    raise InvalidRequest(
        f"The method '{spec.method}' needs rows {needed}; the file '{file_id}' has none.{hint}",
        param="training_file",
        code="invalid_file",
    )


def _check_job_grader(spec: JobSpec, file_id: str, report: FileReport, param: str) -> None:
    grader = spec.settings.grader
    # Imitation methods learn the training file without the grader, unless it selects the demonstrations.
    reads_rows = isinstance(spec.settings, GroupMethod) or spec.grades_demonstrations
    if grader is None or (param == "training_file" and not reads_rows):
        return
    _check_fields(grader, file_id, report, f"method.{spec.method}.grader")


def check_fields(grader: BaseGrader, file: File, param: str) -> None:
    """Raise `InvalidRequest` below `param` if the grader reads a field that some rows of the file lack."""
    if file.report is not None:
        _check_fields(grader, file.id, FileReport.model_validate(file.report), param)


def _check_fields(grader: BaseGrader, file_id: str, report: FileReport, param: str) -> None:
    everywhere = {name for name, rows in report.item_fields.items() if rows == report.rows}
    missing = missing_fields(grader, everywhere)
    if not missing:
        return
    path, field = missing[0]
    having = report.item_fields.get(field, 0)
    usable = ", ".join(sorted(everywhere)) or "no field is in every row"
    found = "no row" if having == 0 else f"only {having:,} of {plural(report.rows, 'row')}"
    verb = "has" if having <= 1 else "have"
    raise InvalidRequest(
        f"The grader reads item.{field}, but {found} in the file '{file_id}' {verb} it. Add it to every row, or use "
        f"one of: {usable}.",
        param=f"{param}.{path}",
        code="missing_item_field",
    )


@dataclass(frozen=True)
class PromptOverlap:
    """Rows of a held-out file whose prompt is also in another file of the job."""

    param: str
    """The held-out file."""
    other: str
    held_out_rows: int
    shared: tuple[tuple[int, int], ...]
    """A line of the held-out file and the first line of the other file with its prompt."""

    def __str__(self) -> str:
        name, other = ("held-out" if self.param == "validation_file" else "test"), self.other.removesuffix("_file")
        lines = ", ".join(f"line {held_out} is {other} line {line}" for held_out, line in self.shared[:_SHOWN_LINES])
        more = ", ..." if len(self.shared) > _SHOWN_LINES else ""
        rows = plural(self.held_out_rows, f"{name} row")
        return (
            f"The prompts of {len(self.shared):,} of {rows} are also in the {other} "
            f"file ({lines}{more}), so the held-out results will look too good. Remove these rows from one of the "
            "files."
        )


def find_overlaps(session: Session, files: Mapping[str, str]) -> list[PromptOverlap]:
    """Compare the prompts of a job's held-out files with those of the files before them, which are given by parameter.

    A file without stored hashes is left out: it is not validated yet, or an older version validated it.
    """
    stored = session.execute(select(File.id, File.prompts).where(File.id.in_(files.values())))
    by_id = {row.id: PromptIndex.from_bytes(row.prompts) for row in stored if row.prompts}
    indices = {param: by_id[file_id] for param, file_id in files.items() if file_id in by_id}
    return [
        PromptOverlap(param, other, len(indices[param]), tuple(shared))
        for other, param in combinations(files, 2)
        if other in indices and param in indices and (shared := indices[param].shared_with(indices[other]))
    ]
