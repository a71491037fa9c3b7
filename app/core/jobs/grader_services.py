"""Checks that the services which a grader requests, a judge or a reward server, can be requested from here."""

from app.core.egress.client import AddressRefused, check_url
from app.core.egress.ip_policy import PrivateHosts
from app.core.errors import InvalidRequest
from app.core.spec.graders import BaseGrader, EndpointGrader, Judge, MultiGrader


def check_services(grader: BaseGrader, param: str, judge_url: str | None, allowed: PrivateHosts) -> None:
    """Raise `InvalidRequest` below `param` for a judge without a judge server, or a reward server at a bad address.

    Nothing is requested or resolved.
    """
    parts = (
        {f"{param}.graders.{key}": part for key, part in grader.graders.items()}
        if isinstance(grader, MultiGrader)
        else {param: grader}
    )
    for path, part in parts.items():
        if isinstance(part, Judge) and judge_url is None:
            raise InvalidRequest(
                "The grader needs a judge model, and this server has none. Ask the operator to set GROUPTUNE_JUDGE_URL "
                "to the base URL of an OpenAI-compatible server, up to /v1, or use a grader without a judge.",
                param=path,
                code="judge_not_configured",
            )
        if isinstance(part, EndpointGrader):
            try:
                check_url(part.url, allowed)
            except AddressRefused as error:
                raise AddressRefused(error.message, param=f"{path}.url") from error
