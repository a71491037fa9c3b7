"""Webhooks with the official SDK, a real receiver and the worker's own delivery code."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from openai import BadRequestError, InvalidWebhookSignatureError, NotFoundError, OpenAI
from sqlalchemy import text
from standardwebhooks import Webhook

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.egress.client import Egress
from app.core.egress.ip_policy import PrivateHosts
from app.core.jobs import leases, lifecycle
from app.core.secrets import KeyRing
from app.core.webhooks import deliveries
from tests.api.conftest import SECRET_KEY
from tests.api.server import Server, lenient_and_strict, new_project, serve, variant
from tests.http_server import Received, Reply, free_port, http_server
from tests.setup_jobs import make_job
from worker.webhook_sender import TIMEOUT_SECONDS, deliver_batch

TERMINAL = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]


@dataclass
class Receiver:
    """An HTTP server that records requests and returns the configured responses."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    got: list[Received] = field(default_factory=list)

    def answer(self, request: Received) -> Reply:
        self.got.append(request)
        return Reply(b'{"ok": true}', self.status, self.headers)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    result = Receiver()
    with http_server(result.answer) as result.url:
        yield result


@dataclass
class Postman:
    """The worker's side of the deliveries."""

    database: Database
    egress: Egress
    ring: KeyRing

    def deliver(self, timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
        """Send the deliveries that are due."""
        return deliver_batch(self.database, self.egress, self.ring, timeout_seconds)

    def later(self, timeout_seconds: float = TIMEOUT_SECONDS) -> float:
        """Skip the time until the next try is due and send it; return the skipped seconds."""
        with self.database.transaction() as session:
            left = text(
                "SELECT extract(epoch FROM min(due_at) - now()) FROM webhook_deliveries WHERE state = 'pending'"
            )
            seconds = session.scalar(left)
            session.execute(text("UPDATE webhook_deliveries SET due_at = now() WHERE state = 'pending'"))
        self.deliver(timeout_seconds)
        return float(seconds or 0)


@pytest.fixture
def postman(server: Server) -> Iterator[Postman]:
    with Egress(PrivateHosts.parse(["127.0.0.1"])) as egress:
        yield Postman(server.database, egress, KeyRing((SECRET_KEY,)))


def listen(client: OpenAI, url: str, *event_types: str) -> Any:
    return client.webhooks.create(name="ci", url=url, event_types=event_types or TERMINAL)  # type: ignore[arg-type]


def cancel_a_job(server: Server) -> str:
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
        lifecycle.cancel(session, Actor(server.project_id), job.id)
        return job.id


@lenient_and_strict
def test_sdk_verifies_the_signature(client: OpenAI, server: Server, receiver: Receiver, postman: Postman) -> None:
    endpoint = listen(client, f"{receiver.url}/hook")
    job_id = cancel_a_job(server)
    assert postman.deliver() is True
    assert postman.deliver() is False
    [request] = receiver.got
    event = client.webhooks.unwrap(request.body, dict(request.headers), secret=endpoint.signing_secret)
    assert (event.type, event.data.id) == ("fine_tuning.job.cancelled", job_id)  # type: ignore[union-attr]
    assert event.object == "event"
    assert Webhook(endpoint.signing_secret).verify(request.body, dict(request.headers))["id"] == event.id
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(request.body + b" ", dict(request.headers), secret=endpoint.signing_secret)


def test_retry_has_same_id_and_new_signature(
    client: OpenAI, server: Server, receiver: Receiver, postman: Postman
) -> None:
    endpoint = listen(client, receiver.url)
    cancel_a_job(server)
    receiver.status = 500
    postman.deliver()
    assert postman.deliver() is False  # not before it is due
    [waiting] = recorded(client, endpoint.id)
    assert (waiting["state"], waiting["tries"][0]["status_code"], waiting["tries"][0]["answer"]) == (
        "pending",
        500,
        '{"ok": true}',
    )
    assert 0 <= waiting["due_at"] - waiting["tries"][0]["at"] <= 7
    receiver.status = 200
    postman.later()
    first, second = receiver.got
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == waiting["id"]
    assert client.webhooks.unwrap(second.body, dict(second.headers), secret=endpoint.signing_secret)
    [done] = recorded(client, endpoint.id)
    assert (done["state"], len(done["tries"]), done["due_at"]) == ("delivered", 2, None)


def test_every_try_has_its_own_signature_time() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105
    outgoing = deliveries.OutgoingDelivery("wh_1", "https://x", b"{}", (secret,))
    now = datetime.now(UTC)
    first, late = (deliveries.signed_headers(outgoing, at) for at in (now - timedelta(minutes=10), now))
    assert first["webhook-signature"] != late["webhook-signature"]
    assert Webhook(secret).verify(b"{}", late) == {}


def recorded(client: OpenAI, endpoint_id: str) -> list[dict[str, Any]]:
    result: Any = client.get(f"/webhook_endpoints/{endpoint_id}/deliveries", cast_to=object)
    return list(result["data"])


def test_delivery_survives_failing_receivers(
    client: OpenAI, server: Server, receiver: Receiver, postman: Postman
) -> None:
    port, late = free_port(), threading.Event()
    endpoint = listen(client, f"http://127.0.0.1:{port}/hook")
    job_id = cancel_a_job(server)
    postman.deliver()
    passed = 0.0
    while passed < 3600:
        passed += postman.later()

    def answer(request: Received) -> Reply:
        receiver.got.append(request)
        if len(receiver.got) == 2:
            late.wait(30)
        return Reply(status=500 if len(receiver.got) == 1 else 200)

    with http_server(answer, port):
        for _ in range(2):
            postman.later(timeout_seconds=2.0)
        late.set()
        postman.later()
    [done] = recorded(client, endpoint.id)
    assert [entry["status_code"] for entry in done["tries"]] == [None] * 5 + [500, None, 200]
    assert "cannot be reached" in done["tries"][0]["error"]
    assert "did not answer within 2 s" in done["tries"][-2]["error"]
    assert done["state"] == "delivered"
    assert {request.headers["webhook-id"] for request in receiver.got} == {done["id"]}
    for request in receiver.got:
        headers = dict(request.headers)
        event = client.webhooks.unwrap(request.body, headers, secret=endpoint.signing_secret)
        assert event.data.id == job_id  # type: ignore[union-attr]
        assert Webhook(endpoint.signing_secret).verify(request.body, headers)["id"] == event.id


def test_410_ends_pending_deliveries(client: OpenAI, server: Server, receiver: Receiver, postman: Postman) -> None:
    gone, other = listen(client, receiver.url), listen(client, f"{receiver.url}/other")
    receiver.status = 500
    cancel_a_job(server)
    postman.deliver()
    client.webhooks.update(other.id, event_types=TERMINAL[:1])  # type: ignore[arg-type]
    receiver.status = 410
    cancel_a_job(server)
    postman.deliver()
    assert [delivery["state"] for delivery in recorded(client, gone.id)] == ["parked", "parked"]
    assert [delivery["state"] for delivery in recorded(client, other.id)] == ["pending"]


@pytest.mark.parametrize(
    ("status", "headers", "state"),
    [(302, {"location": "/elsewhere"}, "pending"), (404, {}, "pending"), (410, {}, "parked"), (204, {}, "delivered")],
)
def test_only_2xx_is_success_and_410_ends_it(
    status: int,
    headers: dict[str, str],
    state: str,
    client: OpenAI,
    server: Server,
    receiver: Receiver,
    postman: Postman,
) -> None:
    endpoint = listen(client, receiver.url)
    receiver.status, receiver.headers = status, headers
    cancel_a_job(server)
    postman.deliver()
    assert [delivery["state"] for delivery in recorded(client, endpoint.id)] == [state]
    assert len(receiver.got) == 1  # redirects are not followed
    cancel_a_job(server)
    gone = status == 410
    assert len(recorded(client, endpoint.id)) == (1 if gone else 2)
    assert (client.webhooks.retrieve(endpoint.id).to_dict()["disabled_at"] is not None) == gone
    if gone:
        client.webhooks.update(endpoint.id, name="back")
        cancel_a_job(server)
        assert len(recorded(client, endpoint.id)) == 2


def test_exhausted_delivery_is_parked(client: OpenAI, server: Server, receiver: Receiver, postman: Postman) -> None:
    endpoint = listen(client, receiver.url)
    cancel_a_job(server)
    receiver.status = 503
    postman.deliver()
    for minutes in (5 / 60, 5, 30, 2 * 60, 5 * 60, 10 * 60, 10 * 60, 14 * 60, 24 * 60):
        [waiting] = recorded(client, endpoint.id)
        delay = waiting["due_at"] - waiting["tries"][-1]["at"]
        assert 0.9 * minutes * 60 - 2 <= delay <= 1.1 * minutes * 60 + 2
        postman.later()
    [parked] = recorded(client, endpoint.id)
    assert (parked["state"], len(parked["tries"])) == ("parked", 10)
    postman.later()
    assert len(receiver.got) == 10
    receiver.status = 200
    replayed: Any = client.post(f"/webhook_endpoints/{endpoint.id}/deliveries/{parked['id']}/replay", cast_to=object)
    assert replayed["state"] == "pending"
    postman.deliver()
    assert [delivery["state"] for delivery in recorded(client, endpoint.id)] == ["delivered"]
    assert receiver.got[-1].headers["webhook-id"] == parked["id"]


def test_both_secrets_sign_during_rotation(
    client: OpenAI, server: Server, receiver: Receiver, postman: Postman
) -> None:
    old = listen(client, receiver.url)
    new = client.webhooks.rotate_secret(old.id, keep_old_secret_active_for_24_hours=True)
    assert new.signing_secret != old.signing_secret
    cancel_a_job(server)
    postman.deliver()
    for secret in (old.signing_secret, new.signing_secret):
        assert client.webhooks.unwrap(receiver.got[0].body, dict(receiver.got[0].headers), secret=secret)
    newest = client.webhooks.rotate_secret(old.id)
    cancel_a_job(server)
    postman.deliver()
    headers = dict(receiver.got[1].headers)
    assert client.webhooks.unwrap(receiver.got[1].body, headers, secret=newest.signing_secret)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(receiver.got[1].body, headers, secret=new.signing_secret)


def test_delivery_of_a_dead_worker_is_sent(
    client: OpenAI, server: Server, receiver: Receiver, postman: Postman
) -> None:
    listen(client, receiver.url)
    cancel_a_job(server)
    with server.database.transaction() as session:
        assert len(deliveries.claim(session, postman.ring, limit=16, seconds=60)) == 1
    assert postman.deliver() is False  # another worker has claimed it
    with server.database.transaction() as session:
        session.execute(text("UPDATE webhook_deliveries SET claimed_until = now() - interval '1 s'"))
        assert deliveries.any_due(session) is True
    assert postman.deliver() is True
    assert len(receiver.got) == 1


def test_extra_events_need_a_subscription(client: OpenAI, server: Server, receiver: Receiver, postman: Postman) -> None:
    extras = ("running", "requeued", "paused")
    listen(client, f"{receiver.url}/extras", *(f"fine_tuning.job.{event_type}" for event_type in extras))
    listen(client, f"{receiver.url}/plain")
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
        claim = leases.claim(session, "w", 60)
        assert claim is not None
    with server.database.transaction() as session:
        session.execute(text("UPDATE jobs SET lease_until = now() - interval '1 s'"))
        assert leases.expire(session) == 1
        lifecycle.pause(session, Actor(server.project_id), job.id)
        lifecycle.cancel(session, Actor(server.project_id), job.id)
    while postman.deliver():
        pass
    received = sorted((request.path, json.loads(request.body)["type"].rpartition(".")[2]) for request in receiver.got)
    assert received == [("/extras", "paused"), ("/extras", "requeued"), ("/extras", "running"), ("/plain", "cancelled")]


def test_jobs_of_other_projects_are_not_sent(
    client: OpenAI, server: Server, receiver: Receiver, postman: Postman
) -> None:
    listen(client, receiver.url)
    project_id, _ = new_project(server.database, "other")
    with server.database.transaction() as session:
        job = make_job(session, project_id)
        lifecycle.cancel(session, Actor(project_id), job.id)
    assert postman.deliver() is False


def test_event_of_a_rolled_back_change_is_unsent(
    client: OpenAI, server: Server, receiver: Receiver, postman: Postman
) -> None:
    listen(client, receiver.url)

    def cancel_and_fail() -> None:
        with server.database.transaction() as session:
            job = make_job(session, server.project_id)
            lifecycle.cancel(session, Actor(server.project_id), job.id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cancel_and_fail()
    assert postman.deliver() is False


@lenient_and_strict
def test_endpoints_are_managed_with_the_sdk(client: OpenAI) -> None:
    made = listen(client, "https://ci.example.com/hook")
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint == f"whsec_...{made.signing_secret[-4:]}"
    assert made.signing_secret not in client.webhooks.retrieve(made.id).to_json()
    changed = client.webhooks.update(made.id, url="https://ci.example.com/other", event_types=TERMINAL[:1])  # type: ignore[arg-type]
    assert (changed.url, changed.name, changed.event_types) == ("https://ci.example.com/other", "ci", TERMINAL[:1])
    others = [listen(client, f"https://ci.example.com/{number}").id for number in range(3)]
    assert [endpoint.id for endpoint in client.webhooks.list(limit=2)] == [*reversed(others), made.id]
    assert client.webhooks.event_types.list().data[:3] == TERMINAL
    gone = client.webhooks.delete(made.id)
    assert (gone.deleted, gone.object) == (True, "webhook_endpoint.deleted")
    with pytest.raises(NotFoundError) as caught:
        client.webhooks.retrieve(made.id)
    assert caught.value.code == "webhook_endpoint_not_found"


@lenient_and_strict
def test_an_endpoint_is_tested(client: OpenAI, receiver: Receiver) -> None:
    endpoint = listen(client, receiver.url)
    receiver.status = 418
    result = client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
    assert (result.status_code, result.success, result.webhook_endpoint_id) == (418, True, endpoint.id)
    [request] = receiver.got
    event = client.webhooks.unwrap(request.body, dict(request.headers), secret=endpoint.signing_secret)
    assert (event.type, event.data.id) == ("fine_tuning.job.failed", "ftjob-test")  # type: ignore[union-attr]


def test_failed_endpoint_test_is_not_retried(client: OpenAI) -> None:
    with http_server(lambda _: Reply()) as url:
        pass
    endpoint = listen(client, url)
    with pytest.raises(BadRequestError) as caught:
        client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed")
    assert caught.value.code == "no_answer"


@pytest.mark.parametrize("url", ["https://10.0.0.1/", "https://169.254.169.254/latest", "ftp://x.example", "hook"])
def test_forbidden_addresses_are_refused(url: str, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        listen(client, url)
    assert (caught.value.param, caught.value.code) == ("url", "address_not_allowed")


def test_an_unknown_event_type_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        listen(client, "https://ci.example.com/", "fine_tuning.job.exploded")
    assert str(caught.value.param).startswith("event_types")


def test_secrets_are_stored_encrypted(client: OpenAI, server: Server) -> None:
    endpoint = listen(client, "https://ci.example.com/")
    with server.database.transaction() as session:
        stored = session.scalar(text("SELECT secret FROM webhook_endpoints"))
        audited = session.execute(text("SELECT after::text FROM audit_log")).scalars().all()
    assert endpoint.signing_secret.encode() not in stored
    assert endpoint.signing_secret not in "".join(filter(None, audited))


def test_missing_key_ring_is_explained(server: Server) -> None:
    with serve(variant(server.settings, secret_keys=None)) as url:
        bare = server.clients.enter_context(OpenAI(base_url=f"{url}/v1", api_key=server.api_key, max_retries=0))
        with pytest.raises(BadRequestError, match="GROUPTUNE_SECRET_KEYS"):
            listen(bare, "https://ci.example.com/")
