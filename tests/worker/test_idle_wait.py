"""Waits of free slots for jobs over several workers."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sqlalchemy import func, select

from app.core.db import Database
from app.core.jobs import leases
from app.core.jobs.gangs import new_slot
from app.core.jobs.leases import Claim
from app.core.jobs.tables import IdleSlot
from tests.core.jobs.test_gangs import KIND, TWO, appear, gang
from tests.setup_jobs import make_project
from worker.idle_wait import IdleWait
from worker.process_control import Drain


def test_concurrent_gangs_do_not_block_each_other(database: Database) -> None:
    """Six workers and three jobs over two: each job gets two workers of its own, whichever polls first."""
    with database.transaction() as session:
        project = make_project(session)
        jobs = {gang(session, project).id for _ in range(3)}
        appear(session, *(f"w{number}" for number in range(6)))
    begin = threading.Barrier(6)

    def work(number: int) -> Claim | None:
        slot = new_slot(f"w{number}", KIND)
        claim = partial(leases.claim, worker=slot.worker, lease_seconds=60, hardware=TWO, slot=slot)
        begin.wait()
        return IdleWait(database, slot, TWO.gpus, claim).run(Drain(), lambda: False)

    with ThreadPoolExecutor(6) as pool:
        claims = [claim for claim in pool.map(work, range(6)) if claim is not None]
    assert Counter(claim.job_id for claim in claims) == dict.fromkeys(jobs, 2)
    assert sorted(claim.node for claim in claims) == [0, 0, 0, 1, 1, 1]
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(IdleSlot)) == 0


def test_drain_ends_the_wait(database: Database) -> None:
    with database.transaction() as session:
        gang(session, make_project(session))
    slot, drain = new_slot("a", KIND), Drain()
    claim = partial(leases.claim, worker="a", lease_seconds=60, hardware=TWO, slot=slot)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(IdleWait(database, slot, 2, claim).run, drain, lambda: False)
        drain.begin()
        assert waiting.result(timeout=30) is None
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(IdleSlot)) == 0
