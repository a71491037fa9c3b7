"""Priorities, preemption and changes of metadata through the official SDK."""

from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from sqlalchemy import func, update

from app.core.accounts import audit
from app.core.jobs import leases, outcomes, preemption
from app.core.jobs.state_machine import StopRequest
from app.core.jobs.tables import Job
from tests.api.jobs import create
from tests.api.server import Server, lenient_and_strict
from tests.api.test_limits import limit


def prioritise(client: OpenAI, job_id: str, priority: int) -> Any:
    return client.post(f"/fine_tuning/jobs/{job_id}", cast_to=object, body={"priority": priority})


@lenient_and_strict
def test_priority_sets_the_queue_position(client: OpenAI, training_file: str) -> None:
    first = create(client, training_file)
    second = create(client, training_file, extra_body={"priority": 5})
    third = create(client, training_file, extra_body={"priority": -100})
    assert [(job.priority, job.queue_position) for job in (first, second, third)] == [(0, 1), (5, 1), (-100, 3)]
    moved = prioritise(client, third.id, 6)
    assert (moved["priority"], moved["queue_position"]) == (6, 1)
    assert client.fine_tuning.jobs.list_events(third.id).data[0].message == "Priority changed from -100 to 6"
    client.fine_tuning.jobs.cancel(first.id)
    with pytest.raises(BadRequestError, match="already been cancelled"):
        prioritise(client, first.id, 1)


def test_metadata_changes_in_every_state(server: Server, client: OpenAI, training_file: str) -> None:
    job = create(client, training_file, metadata={"team": "a"})

    def update(**body: Any) -> Any:
        return client.post(f"/fine_tuning/jobs/{job.id}", cast_to=object, body=body)

    def found(search: str) -> list[str]:
        page: Any = client.get("/fine_tuning/jobs", cast_to=object, options={"params": {"search": search}})
        return [each["id"] for each in page["data"]]

    assert update(metadata={"name": "Sums", "note": "größer = better"})["metadata"]["note"] == "größer = better"
    client.fine_tuning.jobs.cancel(job.id)
    changed = update(metadata={"name": "Sums", "tags": "baseline, keep"})
    assert (changed["metadata"], changed["status"]) == ({"name": "Sums", "tags": "baseline, keep"}, "cancelled")
    assert found("BASELINE") == [job.id]
    assert found("größer") == []
    assert update(metadata={})["metadata"] is None
    with server.database.reading() as session:
        [last, first, _], _ = audit.list_entries(
            session, after=None, limit=9, object_id=job.id, action=audit.Action.job_update
        )
    assert first.after == {"metadata": {"name": "Sums", "tags": "baseline, keep"}}
    assert (last.before, last.after) == (first.after, {"metadata": None})
    for wrong, param in (
        ({}, None),
        ({"metadata": {"a" * 65: "b"}}, "metadata"),
        ({"metadata": {str(key): "" for key in range(17)}}, "metadata"),
    ):
        with pytest.raises(BadRequestError) as caught:
            update(**wrong)
        assert param is None or str(caught.value.param).startswith(param)


def test_priorities_are_limited(server: Server, client: OpenAI, training_file: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        create(client, training_file, extra_body={"priority": 101})
    assert caught.value.param == "priority"
    limit(server, priority=0)
    job = create(client, training_file)
    with pytest.raises(BadRequestError, match="above this project's limit of 0") as caught:
        create(client, training_file, extra_body={"priority": 1})
    assert caught.value.param == "priority"
    with pytest.raises(BadRequestError, match="above this project's limit of 0") as caught:
        prioritise(client, job.id, 1)
    assert caught.value.param == "priority"
    assert prioritise(client, job.id, -1)["priority"] == -1
    checked: Any = client.post(
        "/fine_tuning/jobs/validate",
        cast_to=object,
        body={"model": "tiny", "training_file": training_file, "priority": 1},
    )
    assert [problem["param"] for problem in checked["errors"]] == ["priority"]


@lenient_and_strict
def test_preemption_is_shown(server: Server, client: OpenAI, training_file: str) -> None:
    low = create(client, training_file)
    with server.database.transaction() as session:
        claim = leases.claim(session, "w", 60)
    assert claim is not None
    create(client, training_file, extra_body={"priority": 1})
    with server.database.transaction() as session:
        session.execute(update(Job).values(eligible_at=func.now() - func.make_interval(0, 0, 0, 1)))
        assert preemption.make_room(session, 15) == 1
    assert client.fine_tuning.jobs.retrieve(low.id).stop_request == "preempt"  # type: ignore[attr-defined]
    with server.database.transaction() as session:
        outcomes.stop(session, claim, StopRequest.preempt)
    job: Any = client.fine_tuning.jobs.retrieve(low.id)
    assert (job.status, job.stop_request, job.queue_position) == ("queued", None, 2)
    attempts: Any = client.get(f"/fine_tuning/jobs/{low.id}/attempts", cast_to=object)
    assert [(attempt["outcome"], attempt["reason"]) for attempt in attempts["data"]] == [
        ("preempted", "Preempted by a higher-priority job")
    ]
