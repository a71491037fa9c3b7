"""Validation of a job together with its control, before both are accepted."""

from dataclasses import replace

from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.jobs import submission
from app.core.jobs.submission import JobRequest, SubmissionLimits, ValidatedJob
from app.core.spec.control import control_spec
from app.core.spec.job import JobSpec

PARAM = "control"
_CODE = "invalid_control"


def validate_request(session: Session, project_id: str, request: JobRequest, limits: SubmissionLimits) -> ValidatedJob:
    """Validate a request as `submission.validate_request`, and then its control on the same files."""
    validated = submission.validate_request(session, project_id, request, limits)
    if validated.problems or request.spec.control is None:
        return validated
    try:
        check(request)
    except InvalidRequest as problem:
        return replace(validated, problems=[problem])
    of_control = submission.validate_request(session, project_id, request_of(request), limits)
    return replace(validated, problems=[as_problem(request.spec, problem) for problem in of_control.problems])


def check(request: JobRequest) -> None:
    """Raise `InvalidRequest` for a control that could not be compared with its job."""
    spec = request.spec
    if spec.control == spec.method:
        message = f"The control would train with the job's own method, '{spec.method}'. Choose another method."
    elif request.validation_file is None:
        message = "The comparison with a control needs held-out rows: send a validation_file."
    elif spec.settings.grader is None:
        message = f"The comparison with a control needs a grader: set method.{spec.method}.grader."
    else:
        return
    raise InvalidRequest(message, param=PARAM, code=_CODE)


def request_of(request: JobRequest) -> JobRequest:
    """Return the request of the control of a job that has one."""
    return replace(request, spec=control_spec(request.spec), notices=())


def as_problem(spec: JobSpec, problem: InvalidRequest) -> InvalidRequest:
    """Return a problem of the control as one of the field `control`."""
    return InvalidRequest(f"The control ({spec.control}): {problem.message}", param=PARAM, code=_CODE)
