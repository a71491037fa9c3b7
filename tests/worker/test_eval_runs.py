"""Runs of evals in real Celery workers: kills, cancellations, and models that are gone."""

import threading
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.core import broker
from app.core.accounts.audit import Actor
from app.core.evals import runs
from app.core.evals.tables import EvalRun, EvalRunStatus
from app.core.spec.evals import Totals
from app.core.webhooks.tables import WebhookDelivery, WebhookEndpoint
from tests.evals import created_run
from tests.http_server import Reply
from tests.teacher import answer_sums, teacher
from tests.waiting import eventually
from tests.worker.conftest import Plant

QUICK = 8


@pytest.fixture
def plant(plant: Plant) -> Plant:
    plant.environment["GROUPTUNE_ALLOWED_PRIVATE_HOSTS"] = "127.0.0.1"
    return plant


def create_run(plant: Plant, count: int, **sampler: Any) -> str:
    with plant.database.transaction() as session:
        return created_run(session, plant.project, count, **sampler).id


def run_of(plant: Plant, run_id: str) -> EvalRun:
    with plant.database.reading() as session:
        return session.get_one(EvalRun, run_id)


def finished(plant: Plant, run_id: str) -> int:
    return Totals.model_validate(run_of(plant, run_id).totals).total


def test_killed_worker_loses_no_finished_row(plant: Plant) -> None:
    """Another worker continues: rows that were stored are never asked again, and count once."""
    released = threading.Event()

    def answer(question: str, body: dict[str, Any]) -> Reply:
        if int(question.partition("+")[0]) >= QUICK:
            released.wait(60)
        return answer_sums(question, body)

    with teacher(answer) as server:
        run_id = create_run(plant, 20, model="gpt", base_url=server.url)
        with plant.default_worker() as worker:
            broker.notify_evals(plant.broker_url)
            eventually(lambda: finished(plant, run_id) == QUICK)
            worker.kill()
        released.set()
        assert run_of(plant, run_id).status == EvalRunStatus.in_progress
        with plant.database.transaction() as session:
            session.execute(update(EvalRun).values(claimed_until=func.now() - func.make_interval(0, 0, 0, 1)))
        with plant.default_worker():
            eventually(lambda: run_of(plant, run_id).status == EvalRunStatus.completed)
        asked = server.questions
    assert [asked[f"{number}+{number}="] for number in range(QUICK)] == [1] * QUICK
    totals = Totals.model_validate(run_of(plant, run_id).totals)
    assert (totals.passed, totals.total) == (20, 20)
    assert totals.usage["teacher-2026"].invocation_count == 20


def test_canceled_run_stops_its_worker(plant: Plant) -> None:
    released = threading.Event()

    def answer(question: str, body: dict[str, Any]) -> Reply:
        released.wait(60)
        return answer_sums(question, body)

    with teacher(answer) as server, plant.default_worker():
        run_id = create_run(plant, 3, model="gpt", base_url=server.url)
        next_id = create_run(plant, 1, model="ft:gone")
        broker.notify_evals(plant.broker_url)
        eventually(lambda: bool(server.requests))
        with plant.database.transaction() as session:
            endpoint = {
                "url": "https://x.example",
                "event_types": ["eval.run.failed"],
                "secret": b"",
                "secret_hint": "",
            }
            session.add(WebhookEndpoint(id="we_1", project_id=plant.project, name="x", **endpoint))
            runs.cancel(session, Actor(plant.project), run_of(plant, run_id).eval_id, run_id)
        # The worker is free for the next run, whose model does not exist any more.
        eventually(lambda: run_of(plant, next_id).status == EvalRunStatus.failed)
        error = run_of(plant, next_id).error
        assert error is not None
        assert error["code"] == "model_not_found"
        with plant.database.reading() as session:
            assert session.scalar(select(WebhookDelivery.event_type)) == "eval.run.failed"
        released.set()
    assert run_of(plant, run_id).status == EvalRunStatus.canceled
    assert finished(plant, run_id) == 0
