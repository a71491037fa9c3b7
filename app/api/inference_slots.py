"""Limits the inference requests that a project has in flight, so that one project cannot occupy an engine."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, Final

from fastapi import Depends, Request

from app.auth.bearer import Caller
from app.auth.principal import Principal
from app.core.errors import RateLimited
from app.core.plurals import plural

RETRY_SECONDS: Final = 1.0


class TooManyInferenceRequests(RateLimited):
    """The project has as many inference requests in flight as it may have."""

    code = "too_many_inference_requests"
    retry_after_seconds = RETRY_SECONDS


class InferenceSlots:
    """Counts the inference requests of this API process that are in flight, by project. One event loop uses it."""

    def __init__(self) -> None:
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def taken(self, caller: Principal) -> Iterator[None]:
        """Hold one of the project's slots within the block. Raises `TooManyInferenceRequests` if none is free."""
        project_id, limit = caller.project_id, caller.limits.inference_requests
        in_flight = self._in_flight[project_id]
        if in_flight >= limit:
            raise TooManyInferenceRequests(
                f"The project '{caller.project_name}' has {plural(in_flight, 'inference request')} in flight; its "
                f"limit is {limit:,} (inference_requests). Send fewer at once, or ask an administrator for a higher "
                "limit."
            )
        self._in_flight[project_id] += 1
        try:
            yield
        finally:
            self._in_flight[project_id] -= 1
            if not self._in_flight[project_id]:
                del self._in_flight[project_id]


async def _slot(request: Request, caller: Caller) -> AsyncIterator[None]:
    slots: InferenceSlots = request.app.state.inference_slots
    with slots.taken(caller):
        yield


InferenceSlot = Annotated[None, Depends(_slot)]
"""Annotate a parameter of an inference route with it: the request holds a slot until its response has ended, streams
and clients that hang up included."""
