"""Jobs over several workers: all of their slots in one transaction or none, and leases for each worker."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest, LostLease
from app.core.jobs import gangs, leases, lifecycle, members, placement, preemption, queries, worker_jobs
from app.core.jobs.gangs import Slot, new_slot
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from app.core.jobs.tables import AttemptMember, IdleSlot, Job
from app.core.spec.hardware import Hardware
from app.core.spec.resources import Resources
from app.core.workers import presence
from app.core.workers.tables import WorkerState
from tests.setup_jobs import make_job, make_project, supervised

KIND = "grouptune 1, torch 2, CPU"
TWO = Hardware(processes=2, memory_bytes=16 * 10**9)


def gang(session: Session, project: str, nodes: int = 2) -> Job:
    return make_job(session, project, supervised().model_copy(update={"resources": Resources(nodes=nodes)}))


def appear(session: Session, *names: str, kind: str = KIND) -> None:
    for name in names:
        presence.beat(session, name, state=WorkerState.ready, queues=["train"], slots=1, hardware=TWO, kind=kind)


def wait(session: Session, name: str, kind: str = KIND) -> Slot:
    slot = new_slot(name, kind)
    gangs.wait(session, slot, TWO.gpus)
    return slot


def claimed(session: Session, slot: Slot) -> Claim | None:
    return leases.claim(session, slot.worker, 60, hardware=TWO, slot=slot)


def started(session: Session, project: str) -> tuple[Job, Claim, Claim]:
    """Return a job on the workers `a` and `b`, and their claims."""
    job = gang(session, project)
    appear(session, "a", "b")
    slot = wait(session, "b")
    leader = claimed(session, new_slot("a", KIND))
    member = members.claim_of(session, slot)
    assert leader is not None
    assert member is not None
    session.refresh(job)
    return job, leader, member


@pytest.fixture
def project(database: Database) -> str:
    with database.transaction() as session:
        return make_project(session)


def test_claim_takes_all_slots(database: Database, project: str) -> None:
    with database.transaction() as session:
        job = gang(session, project, 3)
        appear(session, "a", "b", "c")
        slots = [wait(session, "b"), wait(session, "c")]
        leader = claimed(session, new_slot("a", KIND))
        assert leader is not None
        joined = [members.claim_of(session, slot) for slot in slots]
        assert {(one.job_id, one.attempt, one.nodes, one.processes) for one in (leader, *joined) if one} == {
            (job.id, 1, 3, 2)
        }
        assert leader.node == 0
        assert sorted(one.node for one in joined if one) == [1, 2]
        assert session.scalar(select(func.count()).select_from(IdleSlot)) == 0
        (attempt,) = queries.list_attempts(session, job.id)
        assert (attempt.worker, attempt.processes) == ("a", 6)
        assert sorted(queries.list_members(session, job.id)[1]) == ["b", "c"]
        busy = {
            worker.presence.worker.name: worker.running for worker in worker_jobs.list_worker_jobs(session, project, 60)
        }
        assert busy == {"a": 1, "b": 1, "c": 1}


def test_claim_takes_no_slot_if_one_is_missing(database: Database, project: str) -> None:
    with database.transaction() as session:
        job = gang(session, project, 3)
        appear(session, "a", "b", "c")
        wait(session, "b")
        dead = wait(session, "c")
        session.execute(update(IdleSlot).where(IdleSlot.id == dead.id).values(until=func.now()))
        assert claimed(session, new_slot("a", KIND)) is None
        assert gangs.is_awaited(session, 2)
        session.refresh(job)
        assert (job.status, job.attempt) == (JobStatus.queued, 0)
        assert gangs.idle_slots(session, 1, KIND) == 1


def test_slots_of_other_kinds_are_not_taken(database: Database, project: str) -> None:
    with database.transaction() as session:
        job = gang(session, project)
        appear(session, "a")
        appear(session, "b", kind="grouptune 1, torch 3, CPU")
        wait(session, "b", "grouptune 1, torch 3, CPU")
        assert claimed(session, new_slot("a", KIND)) is None
        reason = queries.job_details(session, job).waiting_for
        assert reason == (
            "The job needs 2 workers of one kind. Running: 1 x grouptune 1, torch 2, CPU; "
            "1 x grouptune 1, torch 3, CPU."
        )
        with pytest.raises(InvalidRequest, match=r"of one kind\. Running: .* Request one node") as refused:
            placement.check(session, Resources(nodes=2), 60)
        assert refused.value.param == "resources.nodes"


def test_free_slot_is_held_for_a_minute(database: Database, project: str) -> None:
    with database.transaction() as session:
        job = gang(session, project)
        job.priority = 1
        single = make_job(session, project)
        appear(session, "a", "b")
        slot = new_slot("a", KIND)
        assert claimed(session, slot) is None
        events, _ = queries.list_events(session, job.id, after=None, limit=1)
        assert events[0].message == "Waiting until 2 workers are free at the same time"
        gangs.wait(session, slot, TWO.gpus)  # as the worker does after such a claim
        shown = {one.presence.worker.name: one.reason for one in worker_jobs.list_worker_jobs(session, project, 60)}
        assert str(shown.pop("a")).startswith("Waits until other workers are free for a job over several workers.")
        assert shown == {"b": None}
        gangs.leave(session, slot)
        reason = queries.job_details(session, job).waiting_for
        assert reason == "The job needs 2 workers at the same time. Of 2, 2 are free."
    with database.transaction() as session:
        session.execute(update(Job).values(held_at=Job.held_at - func.make_interval(0, 0, 0, 0, 0, 1, 1)))
        taken = claimed(session, slot)
        assert taken is not None
        assert taken.job_id == single.id
        make_job(session, project)
        assert claimed(session, slot) is not None  # it rests
        make_job(session, project)
        session.execute(update(Job).values(held_at=Job.held_at - func.make_interval(0, 0, 0, 0, 0, 6)))
        assert claimed(session, slot) is None


@pytest.mark.parametrize("change", ["priority", "resume"])
def test_changed_gang_may_hold_slots_again(database: Database, project: str, change: str) -> None:
    """Otherwise jobs that it preempts would take their slots back for minutes."""
    with database.transaction() as session:
        job = gang(session, project)
        make_job(session, project).priority = -1
        appear(session, "a", "b")
        job.held_at = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, gangs.HOLD_SECONDS + 1)
    with database.transaction() as session:
        if change == "priority":
            lifecycle.prioritise(session, Actor(project), job.id, 5)
        else:
            lifecycle.pause(session, Actor(project), job.id)
            lifecycle.resume(session, Actor(project), job.id)
    with database.transaction() as session:
        assert claimed(session, new_slot("a", KIND)) is None


def test_only_the_first_of_many_gangs_holds_a_slot(database: Database, project: str) -> None:
    with database.transaction() as session:
        first = gang(session, project)
        first.priority = 2
        for nodes in (2, 3, 2):
            gang(session, project, nodes).priority = 1
        single = make_job(session, project)
        appear(session, "a", "b", "c")
        slot = new_slot("a", KIND)
        assert claimed(session, slot) is None
    with database.transaction() as session:
        session.execute(update(Job).values(held_at=Job.held_at - func.make_interval(0, 0, 0, 0, 0, 1, 1)))
        taken = claimed(session, slot)
        assert taken is not None
        assert taken.job_id == single.id
        held = session.scalars(select(Job.id).where(Job.held_at.is_not(None))).all()
        assert held == [first.id]


def test_smaller_gang_starts_before_one_that_is_too_large(database: Database, project: str) -> None:
    with database.transaction() as session:
        gang(session, project, 3).priority = 1
        small = gang(session, project)
        appear(session, "a", "b")  # three workers do not run, so nothing waits for them
        wait(session, "b")
        leader = claimed(session, new_slot("a", KIND))
        assert leader is not None
        assert (leader.job_id, leader.nodes) == (small.id, 2)


def test_slot_is_not_held_for_workers_that_do_not_run(database: Database, project: str) -> None:
    with database.transaction() as session:
        gang(session, project)
        single = make_job(session, project)
        appear(session, "a")
        taken = claimed(session, new_slot("a", KIND))
        assert taken is not None
        assert taken.job_id == single.id


def test_worker_without_slot_takes_no_gang(database: Database, project: str) -> None:
    with database.transaction() as session:
        gang(session, project)
        appear(session, "a", "b")
        wait(session, "b")
        assert leases.claim(session, "a", 60, hardware=TWO) is None


def lose_member(session: Session) -> None:
    session.execute(update(AttemptMember).values(lease_until=func.now() - func.make_interval(0, 0, 0, 1)))


def lose_leader(session: Session) -> None:
    session.execute(update(Job).values(lease_until=func.now() - func.make_interval(0, 0, 0, 1)))


@pytest.mark.parametrize(("lose", "worker"), [(lose_member, "b"), (lose_leader, "a")])
def test_one_lost_lease_ends_the_attempt_on_all(
    database: Database, project: str, lose: Callable[[Session], None], worker: str
) -> None:
    with database.transaction() as session:
        job, leader, member = started(session, project)
        assert leases.heartbeat(session, leader, 60) is None
        assert members.heartbeat(session, member, 60) is None
        assert leases.expire(session) == 0
        lose(session)
        assert leases.expire(session) == 1
        session.refresh(job)
        assert (job.status, job.crashes) == (JobStatus.queued, 1)
        (attempt,) = queries.list_attempts(session, job.id)
        assert (attempt.outcome, attempt.reason) == (
            AttemptOutcome.lost_lease,
            f"The worker {worker} stopped renewing its lease",
        )
        for write in (
            partial(leases.heartbeat, session, leader, 60),
            partial(members.heartbeat, session, member, 60),
            partial(leases.stop_requested, session, member),
            partial(members.note_ready, session, member, 0),
            partial(members.publish, session, leader, "a:1"),
        ):
            with pytest.raises(LostLease):
                write()


def urgent(session: Session, project: str, nodes: int = 2) -> Job:
    """Return a job over several workers that has waited for a minute with a high priority."""
    job = gang(session, project, nodes)
    job.priority = 5
    job.eligible_at = func.now() - func.make_interval(0, 0, 0, 0, 1)
    session.flush()
    return job


def test_gang_preempts_a_gang(database: Database, project: str) -> None:
    """It has two slots, so it is place enough, and no further job must make room."""
    with database.transaction() as session:
        job, _, _ = started(session, project)
        single = make_job(session, project)
        appear(session, "c")
        assert leases.claim(session, "c", 60) is not None
        urgent(session, project)
        assert preemption.make_room(session, 15) == 1
        for one in (job, single):
            session.refresh(one)
        assert (job.stop_request, single.stop_request) == ("preempt", None)
        assert preemption.make_room(session, 15) == 0
        urgent(session, project)
        assert preemption.make_room(session, 15) == 0  # the slots of the stopping job are for the first one


def test_gang_preempts_nothing_for_places_of_two_kinds(database: Database, project: str) -> None:
    with database.transaction() as session:
        urgent(session, project)
        for name, kind in (("a", KIND), ("b", "grouptune 1, torch 3, CPU")):
            make_job(session, project)
            appear(session, name, kind=kind)
            assert leases.claim(session, name, 60) is not None
        wait(session, "b", "grouptune 1, torch 3, CPU")
        assert preemption.make_room(session, 15) == 0
        appear(session, "c")
        make_job(session, project)
        assert leases.claim(session, "c", 60) is not None
        assert preemption.make_room(session, 15) == 2


def test_gang_preempts_nothing_while_slots_are_not_held(database: Database, project: str) -> None:
    """The freed slots would take other jobs, and these would be preempted again in the next sweep."""
    with database.transaction() as session:
        wide = urgent(session, project)
        for name in ("a", "b"):
            make_job(session, project)
            appear(session, name)
            assert leases.claim(session, name, 60) is not None
        wide.held_at = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, gangs.HOLD_SECONDS + 1)
        session.flush()
        assert preemption.make_room(session, 15) == 0
        wide.held_at = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, gangs.HOLD_SECONDS + gangs.REST_SECONDS + 1)
        session.flush()
        assert preemption.make_room(session, 15) == 2


def test_gang_preempts_as_many_jobs_as_it_needs(database: Database, project: str) -> None:
    with database.transaction() as session:
        running = [make_job(session, project) for _ in range(3)]
        for number in range(3):
            assert leases.claim(session, f"w{number}", 60) is not None
        urgent(session, project, 4)
        appear(session, "w0", "w1", "w2")
        assert preemption.make_room(session, 15) == 0
        appear(session, "a", "b")
        assert preemption.make_room(session, 15) == 0
        wait(session, "a")
        wait(session, "b")
        assert preemption.make_room(session, 15) == 2
        for job in running:
            session.refresh(job)
        assert Counter(job.stop_request for job in running) == {"preempt": 2, None: 1}
        assert preemption.make_room(session, 15) == 0
