"""Which model a run samples from: one of this installation, or one on an OpenAI-compatible server.

Other servers are found as teachers are: at an address in the request, or on the operator's teacher server.
"""

from typing import Final

from sqlalchemy.orm import Session

from app.core import ids
from app.core.egress.client import check_url
from app.core.errors import InvalidRequest, NotFound
from app.core.inference import models
from app.core.inference.models import ServedModel
from app.core.settings import Settings
from app.core.spec.evals import SamplerSpec

MODEL: Final = "data_source.model"
BASE_URL: Final = "data_source.base_url"


def locate(session: Session, project_id: str, spec: SamplerSpec, settings: Settings) -> SamplerSpec:
    """Return the sampler with `is_operators` set if the model is on the operator's server.

    Raises `InvalidRequest` for a model that is not available, and `AddressRefused`.
    """
    if spec.base_url is not None:
        check_url(spec.base_url, settings.private_hosts, BASE_URL)
        return spec
    try:
        served(session, project_id, spec, settings)
    except NotFound as error:
        is_unknown = error.code == "model_not_found" and not spec.model.startswith(ids.FINE_TUNED)
        if is_unknown and settings.teacher_url is not None:
            return spec.model_copy(update={"is_operators": True})
        hint = " For a model of another server, send that server's address as `base_url`." if is_unknown else ""
        raise InvalidRequest(f"{error.message}{hint}", param=MODEL, code=error.code) from error
    return spec


def served(session: Session, project_id: str, spec: SamplerSpec, settings: Settings) -> ServedModel:
    """Return the model of this installation, as the gateway finds it. Raises `NotFound` and `AdapterMissing`."""
    return models.resolve(session, project_id, spec.model, settings)
