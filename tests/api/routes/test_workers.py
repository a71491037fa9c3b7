"""The list of workers, as a project sees it."""

from typing import Any

from openai import OpenAI
from sqlalchemy import func, update

from app.core.jobs import leases
from app.core.spec.hardware import Hardware
from app.core.workers import presence
from app.core.workers.tables import Worker, WorkerState
from tests.api.server import Server
from tests.setup_jobs import make_job, make_project

GPU = Hardware(
    accelerator="NVIDIA L4", accelerators=1, accelerator_memory_bytes=24 * 10**9, memory_bytes=64 * 10**9, cores=8
)
CPU = Hardware(processor="AMD EPYC", cores=2, threads=2, memory_bytes=16 * 10**9)


def appear(server: Server, name: str, hardware: Hardware, state: WorkerState = WorkerState.ready) -> None:
    with server.database.transaction() as session:
        presence.beat(session, name, state=state, queues=["train"], slots=1, hardware=hardware)


def test_workers_are_listed_with_details(server: Server, client: OpenAI) -> None:
    for name, state in (("a:1", WorkerState.ready), ("b:1", WorkerState.ready), ("c:1", WorkerState.draining)):
        appear(server, name, GPU, state)
    appear(server, "d:1", CPU)
    appear(server, "e:1", GPU, WorkerState.quarantined)
    with server.database.transaction() as session:
        own_job = make_job(session, server.project_id)
        assert leases.claim(session, "a:1", 60) is not None
        make_job(session, make_project(session, "other"))
        assert leases.claim(session, "b:1", 60) is not None
        long_ago = func.now() - func.make_interval(0, 0, 0, 0, 1)
        session.execute(update(Worker).where(Worker.name == "d:1").values(last_seen=long_ago))
    listed: Any = client.get("/workers", cast_to=object)
    shown = {worker["id"]: worker for worker in listed["data"]}
    assert {name: worker["status"] for name, worker in shown.items()} == {
        "a:1": "busy",
        "b:1": "busy",
        "c:1": "draining",
        "d:1": "lost",
        "e:1": "quarantined",
    }
    assert (shown["a:1"]["jobs"], shown["a:1"]["running_jobs"]) == ([own_job.id], 1)
    assert (shown["b:1"]["jobs"], shown["b:1"]["running_jobs"]) == ([], 1)
    assert shown["a:1"]["hardware"]["device"] == "NVIDIA L4"
    assert shown["d:1"]["hardware"]["device"] == "AMD EPYC, 2 threads"
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "a:1", "e:1")


def test_lost_workers_are_removed_after_a_day(server: Server) -> None:
    for name in ("a:1", "b:1", "c:1"):
        appear(server, name, CPU)
    with server.database.transaction() as session:
        yesterday = func.now() - func.make_interval(0, 0, 0, 1, 1)
        session.execute(update(Worker).where(Worker.name == "a:1").values(last_seen=yesterday))
        presence.forget_lost(session)
        presence.leave(session, "b:1")
        assert [record.worker.name for record in presence.list_workers(session, 60)] == ["c:1"]
