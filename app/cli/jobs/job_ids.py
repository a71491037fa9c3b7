"""Finds the job that a command names: by its id, the start or end of its id, or `@latest`."""

import re
from itertools import islice
from typing import Final

from app.cli.ui.hints import suggest
from app.client import Client
from app.core.errors import InvalidRequest

PREFIX: Final = "ftjob-"
LATEST: Final = "@latest"
SHORT: Final = 8
"""Characters at the end of an id that tables show; the names of trained models end in the same ones."""
_WHOLE: Final = re.compile(r"ftjob-[A-Za-z0-9]{24}")
_PART: Final = re.compile(r"[A-Za-z0-9-]+")
_LISTED: Final = 5


def find_job(client: Client, name: str) -> str:
    """Return the id of the job. Raises `InvalidRequest` if no job, or more than one, has such an id."""
    if _WHOLE.fullmatch(name):
        return name
    if name == LATEST:
        newest = next(client.pages("/fine_tuning/jobs", limit=1), None)
        if newest is None:
            raise InvalidRequest("There are no jobs yet.", param="job", code="job_not_found")
        return str(newest["id"])
    found = []
    if _PART.fullmatch(name):
        jobs = client.pages("/fine_tuning/jobs", search=name.removeprefix(PREFIX))
        found = list(islice((job for job in jobs if _matches(job["id"], name)), _LISTED + 1))
    if not found:
        message = f"No job id is, starts or ends with '{name}'. `{suggest('jobs list')}` shows the ids."
        raise InvalidRequest(message, param="job", code="job_not_found")
    if len(found) > 1:
        shown = [f"{job['id']} ({job['user_provided_suffix'] or job['model']})" for job in found[:_LISTED]]
        more = ", ..." if len(found) > _LISTED else ""
        message = (
            f"Several jobs have an id that starts or ends with '{name}': {', '.join(shown)}{more}. Use more of the id."
        )
        raise InvalidRequest(message, param="job", code="ambiguous_job")
    return str(found[0]["id"])


def find_jobs(client: Client, names: list[str]) -> list[str]:
    """Return the ids of several jobs, each once. Raises as `find_job`."""
    return list(dict.fromkeys(find_job(client, name) for name in names))


def _matches(job_id: str, name: str) -> bool:
    return job_id.removeprefix(PREFIX).startswith(name.removeprefix(PREFIX)) or job_id.endswith(name)
