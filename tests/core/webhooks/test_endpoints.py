"""Which deliveries a worker claims."""

from collections import Counter

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.egress.client import Egress
from app.core.egress.ip_policy import PrivateHosts
from app.core.secrets import KeyRing, new_key
from app.core.webhooks import deliveries, endpoints
from app.core.webhooks.deliveries import AT_ONCE_EACH, DeliveryTry
from app.core.webhooks.events import EventType, emit
from tests.setup_jobs import make_project
from worker.webhook_sender import send


def test_busy_endpoint_leaves_room_for_others(database: Database) -> None:
    ring = KeyRing((new_key(),))
    wants = {"https://busy.example/": EventType.cancelled, "https://other.example/": EventType.failed}
    with database.transaction() as session:
        project = make_project(session)
        for url, kind in wants.items():
            endpoints.create(session, Actor(project), ring, name="x", url=url, event_types=[kind])
        for number in range(10):
            emit(session, project, EventType.cancelled, f"ftjob-{number}")
    with database.transaction() as session:
        emit(session, project, EventType.failed, "ftjob-10")

    def claim() -> list[deliveries.OutgoingDelivery]:
        with database.transaction() as session:
            return deliveries.claim(session, ring, limit=16, seconds=60)

    held = claim()
    assert Counter(one.url for one in held) == {"https://busy.example/": AT_ONCE_EACH, "https://other.example/": 1}
    assert claim() == [], "the rest waits for those that are in hand"
    delivered = 0
    while held:
        with database.transaction() as session:
            for one in held:
                deliveries.settle(session, one.id, DeliveryTry(200, None, "", 0.1))
        delivered += len(held)
        held = claim()
    assert delivered == 11


def test_undecryptable_secret_fails_alone(database: Database) -> None:
    lost, ring = KeyRing((new_key(),)), KeyRing((new_key(),))
    with database.transaction() as session:
        project = make_project(session)
        for used, url in ((lost, "https://lost.example/"), (ring, "https://kept.example/")):
            endpoints.create(session, Actor(project), used, name="x", url=url, event_types=[EventType.cancelled])
        emit(session, project, EventType.cancelled, "ftjob-1")
    with database.transaction() as session:
        claimed = {one.url: one for one in deliveries.claim(session, ring, limit=16, seconds=60)}
    assert "cannot be decrypted" in (claimed["https://lost.example/"].problem or "")
    kept = claimed["https://kept.example/"]
    assert (kept.problem, len(kept.secrets)) == (None, 1)
    with Egress(PrivateHosts.parse([])) as egress:
        tried = send(egress, claimed["https://lost.example/"])
    assert not tried.succeeded
    assert tried.error == claimed["https://lost.example/"].problem
