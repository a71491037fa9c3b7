"""Deletes trained models that no live job needs. Here, not in `core.models`, which knows no jobs."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest, PermissionDenied
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import Checkpoint, Job
from app.core.models.adapters import find_adapter, get_own
from app.core.models.aliases import names_of
from app.core.models.tables import TrainedModel


def delete_model(session: Session, project_id: str, name: str) -> TrainedModel:
    """Deletes the row, with those of its permissions and checkpoint, and returns it; delete its blobs after the commit.

    Raises `NotFound`, `PermissionDenied` for a model that another project shares, and `InvalidRequest` while a job that
    is not finished starts from the model or is the one whose checkpoint it is, or an alias names it.
    """
    shared = find_adapter(session, project_id, name)
    if shared is not None and shared.project_id != project_id:
        raise PermissionDenied(f"The model '{name}' is shared with this project; only its owner can delete it.")
    # Whoever creates a job from it holds its row until that job is there to be seen.
    model = get_own(session, project_id, name, lock=True)
    starts = select(Job.id).where(Job.status.not_in(TERMINAL), Job.spec["model"].astext == name).limit(1)
    if (job_id := session.scalar(starts)) is not None:
        raise _in_use(f"The job {job_id} starts from the model '{name}'")
    if named := names_of(session, name):
        message = f"The alias {named[0]} names the model '{name}'; move or delete that alias first."
        raise InvalidRequest(message, code="model_in_use", param="model")
    if model.step is not None:
        own = select(Job.id).where(Job.id == model.job_id, Job.status.not_in(TERMINAL))
        if session.scalar(own) is not None:
            raise _in_use(f"The job {model.job_id} goes on from its checkpoint '{name}'")
        session.execute(delete(Checkpoint).where(Checkpoint.job_id == model.job_id, Checkpoint.step == model.step))
    session.delete(model)
    session.flush()
    return model


def _in_use(reason: str) -> InvalidRequest:
    return InvalidRequest(f"{reason}; cancel that job or wait for its end first.", code="model_in_use", param="model")
