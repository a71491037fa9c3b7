"""Workers register when they are ready, report that they drain, and unregister; a killed worker is reported as lost."""

from app.core import broker
from app.core.jobs import queries, worker_jobs
from app.core.workers.tables import WorkerState
from tests.waiting import eventually
from tests.worker.conftest import Plant


def members(plant: Plant, alive_seconds: float = 6.0) -> list[worker_jobs.WorkerJobs]:
    with plant.database.transaction() as session:
        return worker_jobs.list_worker_jobs(session, plant.project, alive_seconds)


def test_worker_is_listed_while_it_runs(plant: Plant) -> None:
    with plant.quick_worker("live") as live, plant.quick_worker("killed") as killed:
        eventually(lambda: len(members(plant)) == 2)
        assert {member.presence.worker.name.rpartition(":")[2] for member in members(plant)} == {
            str(live.pid),
            str(killed.pid),
        }
        assert all(member.presence.trains and member.presence.worker.slots == 1 for member in members(plant))
        killed.kill()
        job_id = plant.tell("until_stopped")

        def notify_until_running() -> bool:
            broker.notify_training(plant.broker_url)  # repeated: the killed worker may have taken a message
            return plant.job(job_id).step > 0

        eventually(notify_until_running)
        eventually(lambda: [member.presence.is_alive for member in members(plant, 2.5)].count(False) == 1)
        [busy] = [member for member in members(plant, 2.5) if member.presence.is_alive]
        assert (busy.running, busy.own_jobs) == (1, (job_id,))
        with plant.database.transaction() as session:
            assert worker_jobs.list_worker_jobs(session, "another", 6.0)[0].own_jobs == ()
            [attempt] = queries.list_attempts(session, job_id)
        assert attempt.device == busy.presence.hardware.device
        seen = {str(member.presence.worker.state) for member in members(plant)}
        assert seen == {WorkerState.ready}
        assert live.drain() == 0
    [lost] = members(plant, 0.5)
    assert lost.presence.worker.name.endswith(f":{killed.pid}")
    assert not lost.presence.trains
