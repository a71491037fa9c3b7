"""Jobs over several workers, each with a state directory of its own, which meet on loopback."""

import threading
from contextlib import ExitStack

import pytest

from app.core.jobs import invariants, queries
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job
from app.core.spec.graders import EndpointGrader
from app.core.spec.job import GroupMix, JobSpec, MethodType, Sampling
from app.core.spec.resources import Resources
from tests.http_server import Received, Reply, http_server
from tests.setup_jobs import make_job, stored_file, supervised
from tests.waiting import eventually
from tests.worker.celery_process import CeleryProcess
from tests.worker.conftest import Plant
from tests.worker.network import cut
from tests.worker.training.runs import STEPS, settings


def machine(plant: Plant, name: str, application: str = "tests.worker.protocol_worker") -> CeleryProcess:
    """Return a worker with a state directory of its own; only the blobs are shared."""
    own = plant.directory / name
    own.mkdir()
    (own / "storage").symlink_to(plant.directory / "state" / "storage")
    environment = plant.environment | {"GROUPTUNE_STATE_DIR": str(own)}
    arguments = ["-Q", "train", "-P", "threads", "-c", "1"]
    return CeleryProcess(name, arguments, environment, plant.directory, application)


def submit(plant: Plant, behaviour: str = "", nodes: int = 2, **hyperparameters: int) -> str:
    """Create a queued job over `nodes` workers; no worker is notified."""
    wanted = {"resources": Resources(nodes=nodes), "metadata": {"behaviour": behaviour}}
    with plant.database.transaction() as session:
        file = stored_file(session, plant.store, plant.project, plant.directory, 8)
        spec = supervised(batch_size=2, **hyperparameters).model_copy(update=wanted)
        return make_job(session, plant.project, spec, file).id


def workers_of(plant: Plant, job_id: str) -> list[tuple[str, ...]]:
    """Return the pids of the workers of each attempt, that of the leader first."""
    with plant.database.transaction() as session:
        members = queries.list_members(session, job_id)
        return [
            tuple(name.rpartition(":")[2] for name in (attempt.worker, *members.get(attempt.attempt, ())))
            for attempt in queries.list_attempts(session, job_id)
        ]


def assert_metrics_once(plant: Plant, job: Job, steps: int) -> None:
    with plant.database.transaction() as session:
        assert [metric.step for metric in queries.list_metrics(session, job.id)] == list(range(1, steps + 1))
        assert invariants.breaches(session, plant.store.exists) == []


@pytest.mark.slow
def test_killed_worker_ends_the_attempt_on_all(plant: Plant) -> None:
    """First a further worker is killed, then the one that leads; another worker takes the place of each."""
    steps = 600
    job_id = submit(plant, f"train_slowly:{steps}")
    with plant.default_worker(), ExitStack() as running:
        workers = {}

        def start(name: str) -> None:
            worker = running.enter_context(machine(plant, name))
            workers[str(worker.pid)] = worker

        start("a")
        start("b")
        for attempt, victim in ((1, 1), (2, 0)):
            eventually(lambda attempt=attempt: len(workers_of(plant, job_id)) == attempt)  # type: ignore[misc]
            plant.wait_for_step(job_id, plant.job(job_id).step + 5)
            workers.pop(workers_of(plant, job_id)[-1][victim]).kill()
            start(f"other-{attempt}")
        job = plant.wait_for(job_id, JobStatus.succeeded)
        assert set(workers) == set(workers_of(plant, job_id)[-1])
    attempts = plant.attempts(job_id)
    assert [attempt.outcome for attempt in attempts] == ["lost_lease", "lost_lease", "succeeded"]
    assert 0 < attempts[1].resumed_from_step < attempts[2].resumed_from_step
    assert_metrics_once(plant, job, steps)


@pytest.mark.slow
def test_suspended_worker_ends_the_attempt_on_all(plant: Plant) -> None:
    """First a further worker is suspended, then the one that leads. Both write nothing when they continue."""
    steps = 600
    job_id = submit(plant, f"train_slowly:{steps}")
    with plant.default_worker(), ExitStack() as running:
        workers = {}
        for name in "abcd":
            worker = running.enter_context(machine(plant, name))
            workers[str(worker.pid)] = worker
        suspended = []
        for attempt, victim in ((1, 1), (2, 0)):
            eventually(lambda attempt=attempt: len(workers_of(plant, job_id)) == attempt)  # type: ignore[misc]
            plant.wait_for_step(job_id, plant.job(job_id).step + 5)
            suspended.append(workers[workers_of(plant, job_id)[-1][victim]])
            suspended[-1].suspend()
            eventually(lambda attempt=attempt: plant.attempts(job_id)[attempt - 1].outcome is not None)  # type: ignore[misc]
        plant.wait_for_step(job_id, plant.job(job_id).step + 5)
        for worker in suspended:
            worker.resume()
        for worker, event in zip(suspended, (b"member.lost", b"attempt.lost"), strict=True):
            eventually(lambda worker=worker, event=event: event in worker.log.read_bytes())  # type: ignore[misc]
        job = plant.wait_for(job_id, JobStatus.succeeded)
    attempts = plant.attempts(job_id)
    assert [attempt.outcome for attempt in attempts] == ["lost_lease", "lost_lease", "succeeded"]
    assert 0 < attempts[1].resumed_from_step < attempts[2].resumed_from_step
    assert_metrics_once(plant, job, steps)


@pytest.mark.slow
def test_cut_connection_repeats_the_attempt(plant: Plant) -> None:
    """Both trainers lose their connection to the other one, and neither has another reason."""
    job_id = submit(plant, "lose_connection:12")
    with plant.default_worker(), ExitStack() as running:
        for name in "ab":
            running.enter_context(machine(plant, name))
        job = plant.wait_for(job_id, JobStatus.succeeded)
    attempts = plant.attempts(job_id)
    assert [(attempt.outcome, attempt.resumed_from_step) for attempt in attempts] == [("crashed", 0), ("succeeded", 4)]
    assert "The trainer lost its connection to another worker" in str(attempts[0].reason)
    assert_metrics_once(plant, job, 12)


class Gate:
    """A reward server that answers a number of requests, and holds the others until more are released."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._received = self._released = 0

    def answer(self, _: Received) -> Reply:
        with self._changed:
            self._received += 1
            number = self._received
            self._changed.wait_for(lambda: number <= self._released)
        return Reply(b'{"results": [{"reward": %d}]}' % (number % 2))

    def release(self, more: int) -> None:
        """Answer the requests that wait, and `more` further ones."""
        with self._changed:
            self._released = self._received + more
            self._changed.notify_all()


def submit_graded(plant: Plant, url: str) -> str:
    """Create a queued job over two workers: 8 steps, each with 6 requests to the reward server."""
    options = settings(
        "gft",
        grader=EndpointGrader(url=url, timeout_seconds=120.0),
        group=GroupMix(expert=1, teacher=0, self_=2),
        sampling=Sampling(max_tokens=2),
    )
    spec = JobSpec(model="tiny", method=MethodType.gft, settings=options, seed=7, resources=Resources(nodes=2))
    with plant.database.transaction() as session:
        file = stored_file(session, plant.store, plant.project, plant.directory, 8)
        return make_job(session, plant.project, spec, file).id


@pytest.mark.slow
def test_real_trainers_over_two_machines(plant: Plant) -> None:
    """The real trainer over gloo, one process on each machine: first their connection is cut, then one is frozen."""
    gate = Gate()
    plant.environment["GROUPTUNE_ALLOWED_PRIVATE_HOSTS"] = "127.0.0.1"
    with http_server(gate.answer) as url, plant.default_worker(), ExitStack() as running:
        running.callback(gate.release, 1_000_000)
        job_id = submit_graded(plant, url)
        workers = {}
        for name in "ab":
            worker = running.enter_context(machine(plant, name, "worker.celery_app"))
            workers[str(worker.pid)] = worker
        gate.release(15)
        plant.wait_for_step(job_id, 2)
        [one], [other] = (worker.ranks() for worker in workers.values())
        assert cut(one.pid, other.pid) > 0
        gate.release(15)
        eventually(lambda: plant.attempts(job_id)[0].outcome is not None)
        plant.end_back_off(job_id)
        eventually(lambda: len(workers_of(plant, job_id)) == 2)
        plant.wait_for_step(job_id, 3)
        frozen = workers[workers_of(plant, job_id)[-1][1]]
        frozen.suspend()
        eventually(lambda: plant.attempts(job_id)[1].outcome is not None)
        gate.release(1_000_000)
        frozen.resume()
        job = plant.wait_for(job_id, JobStatus.succeeded)
    attempts = plant.attempts(job_id)
    assert [attempt.outcome for attempt in attempts] == ["crashed", "lost_lease", "succeeded"]
    assert 0 < attempts[1].resumed_from_step < attempts[2].resumed_from_step
    assert_metrics_once(plant, job, STEPS)
