"""A project's inference requests in flight: the limit, its error, and the slots of other projects."""

from contextlib import ExitStack
from dataclasses import replace

import pytest

from app.api.errors import respond
from app.api.inference_slots import InferenceSlots, TooManyInferenceRequests
from app.auth.bearer import default_limits
from app.auth.principal import Principal
from app.core.accounts.audit import Actor
from app.core.settings import Settings


def caller(project_id: str, limit: int) -> Principal:
    limits = replace(default_limits(Settings()), inference_requests=limit)
    return Principal(project_id, project_id, "key", frozenset(), limits, False, Actor(project_id))


def test_slots_are_limited_by_project() -> None:
    slots = InferenceSlots()
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(slots.taken(caller("a", 2)))
        with pytest.raises(TooManyInferenceRequests, match=r"'a' has 2 inference requests.*limit is 2") as caught:
            held.enter_context(slots.taken(caller("a", 2)))
        held.enter_context(slots.taken(caller("b", 1)))
    assert (respond(caught.value).status_code, respond(caught.value).headers["retry-after"]) == (429, "1")
    with (
        slots.taken(caller("a", 1)),
        pytest.raises(TooManyInferenceRequests, match="'a' has 1 inference request in flight"),
        slots.taken(caller("a", 1)),
    ):
        pass


def test_failed_request_frees_its_slot() -> None:
    slots = InferenceSlots()
    with pytest.raises(KeyError), slots.taken(caller("a", 1)):
        raise KeyError
    with slots.taken(caller("a", 1)):
        pass
