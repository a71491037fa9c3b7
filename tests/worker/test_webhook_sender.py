"""Webhooks of a job that real Celery workers run."""

import json
from queue import SimpleQueue
from typing import Final

from standardwebhooks import Webhook

from app.core.accounts.audit import Actor
from app.core.jobs.state_machine import JobStatus
from app.core.secrets import KeyRing, new_key
from app.core.webhooks import endpoints
from app.core.webhooks.events import EventType
from tests.http_server import Received, Reply, http_server
from tests.worker.conftest import Plant

EXPECTED: Final = {EventType.running, EventType.checkpoint_created, EventType.succeeded}


def test_worker_job_sends_webhooks(plant: Plant) -> None:
    requests: SimpleQueue[Received] = SimpleQueue()
    key = new_key()
    plant.environment |= {"GROUPTUNE_SECRET_KEYS": key, "GROUPTUNE_ALLOWED_PRIVATE_HOSTS": "127.0.0.1"}

    def answer(request: Received) -> Reply:
        requests.put(request)
        return Reply()

    with http_server(answer) as url:
        job_id = plant.tell("train:2")
        with plant.database.transaction() as session:
            _, secret = endpoints.create(
                session,
                Actor(plant.project),
                KeyRing((key,)),
                name="ci",
                url=url,
                event_types=sorted(EXPECTED),
            )
        with plant.default_worker(), plant.quick_worker():
            plant.wait_for(job_id, JobStatus.succeeded)
            delivered: set[str] = set()
            while delivered != EXPECTED:
                request = requests.get(timeout=120)
                Webhook(secret).verify(request.body, dict(request.headers))
                event = json.loads(request.body)
                ended = event["type"] == "fine_tuning.job.succeeded"  # its verdict is null: there are no held-out rows
                assert event["data"] == {"id": job_id} | ({"verdict": None} if ended else {})
                delivered.add(event["type"])
