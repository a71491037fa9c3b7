"""Jobs that request GPUs: which workers take them, and which requests are refused."""

import pytest
from sqlalchemy.orm import Session

from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.jobs import leases, placement, queries
from app.core.spec.hardware import Hardware
from app.core.spec.resources import Resources
from app.core.workers import presence
from app.core.workers.tables import WorkerState
from tests.setup_jobs import make_job, make_project, supervised

CPU = Hardware(processor="Box", processes=2, memory_bytes=16 * 10**9)


def gpus(count: int, processes: int = 1) -> Hardware:
    """Return a worker's hardware with `count` GPUs, `processes` of which it gives to jobs that request none."""
    memory = 24 * 10**9
    return Hardware(
        accelerator="L4",
        accelerators=count,
        accelerator_memory_bytes=memory,
        processes=processes,
        memory_bytes=memory,
    )


def appear(
    session: Session,
    name: str,
    hardware: Hardware,
    state: WorkerState = WorkerState.ready,
    problem: str | None = None,
) -> None:
    presence.beat(session, name, state=state, queues=["train"], slots=1, hardware=hardware, kind="box", problem=problem)


def test_worker_skips_job_with_more_gpus(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        large = make_job(session, project, supervised().model_copy(update={"resources": Resources(gpus=4)}))
        small = make_job(session, project)
        first = leases.claim(session, "small", 60, hardware=gpus(2, processes=2))
        second = leases.claim(session, "large", 60, hardware=gpus(8))
        assert first is not None
        assert second is not None
        assert [(claim.job_id, claim.processes) for claim in (first, second)] == [(small.id, 2), (large.id, 4)]
        attempt = queries.list_attempts(session, large.id)[0]
        assert (attempt.processes, attempt.device) == (4, "4 x L4")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (4, None),
        ("auto", None),
        (5, r"^The job needs a worker with 5 GPUs\. Of the 3 workers, cpu:1 has no GPU and 2 trainer processes, "
            r"one:1 has 1 x L4, two:1 has 4 x L4\. Request at most 4 GPUs, or start a worker with more\.$"),
    ],
)  # fmt: skip
def test_request_beyond_every_worker_is_refused(database: Database, wanted: int, reason: str | None) -> None:
    resources = Resources(gpus=wanted)
    with database.transaction() as session:
        appear(session, "cpu:1", CPU)
        appear(session, "one:1", gpus(1))
        appear(session, "two:1", gpus(4), WorkerState.draining)
        appear(session, "broken:1", gpus(8), WorkerState.quarantined)
        if reason is None:
            placement.check(session, resources, 60)
            return
        with pytest.raises(InvalidRequest, match=reason) as refused:
            placement.check(session, resources, 60)
        assert (refused.value.param, refused.value.code) == ("resources.gpus", "resources_not_available")


def test_request_waits_while_no_worker_runs(database: Database) -> None:
    with database.transaction() as session:
        placement.check(session, Resources(gpus=8), 60)


def test_job_shows_the_problem_of_its_only_worker(database: Database) -> None:
    problem = "Its store is empty."
    with database.transaction() as session:
        project = make_project(session)
        small = make_job(session, project)
        large = make_job(session, project, supervised().model_copy(update={"resources": Resources(gpus=4)}))

        def reasons() -> list[str | None]:
            return [details.waiting_for for details in queries.list_details(session, [small, large])]

        appear(session, "a:1", gpus(4), problem=problem)
        assert reasons() == [
            f"No other worker runs. a:1 cannot take jobs: {problem}",
            f"No other worker with 4 GPUs runs. a:1 cannot take jobs: {problem}",
        ]
        appear(session, "b:1", gpus(1))
        assert reasons() == [None, f"No other worker with 4 GPUs runs. a:1 cannot take jobs: {problem}"]
        assert presence.training_slots(session, "box", 4, 60) == 0
        appear(session, "a:1", gpus(4))
        assert reasons() == [None, None]
        assert presence.training_slots(session, "box", 4, 60) == 1
