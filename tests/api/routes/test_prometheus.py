"""`/metrics`: access rules, values, and a number of series that clients cannot increase."""

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from app.core.jobs import leases
from app.main import create_app
from tests.api.server import Server, serve, variant
from tests.setup_jobs import make_job

TOKEN = "scrape-me"  # noqa: S105

Samples = dict[tuple[str, ...], float]


def samples(url: str, name: str) -> Samples:
    """Return the values of a metric by the values of its labels, in the order of the labels' names."""
    answer = httpx.get(f"{url}/metrics", trust_env=False)
    assert answer.status_code == 200, answer.text
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name
    }


def requests(url: str) -> Samples:
    """Return the request counts by method, route and status."""
    return samples(url, "grouptune_http_request_seconds_count")


def test_requests_are_counted_by_template(server: Server) -> None:
    before = requests(server.url)
    headers = {"authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as http:
        for number in range(20):
            http.get(f"/v1/files/file-{number}")
            http.get(f"/v1/models/{number}/{number}/download")
            http.get(f"/nothing/{number}")
            http.request("PROPFIND" if number % 2 else "LOCK", "/healthz")
        http.get("/healthz")
    after = requests(server.url)
    grown = {labels: count - before.get(labels, 0) for labels, count in after.items() if count != before.get(labels, 0)}
    grown.pop(("GET", "/metrics", "2xx"))
    assert grown == {
        ("GET", "/v1/files/{file_id}", "4xx"): 20,
        ("GET", "/v1/models/{model}/download", "4xx"): 20,
        ("GET", "unmatched", "4xx"): 20,
        ("OTHER", "/healthz", "4xx"): 20,
        ("GET", "/healthz", "2xx"): 1,
    }


def test_backlog_metrics(server: Server) -> None:
    with server.database.transaction() as session:
        make_job(session, server.project_id)
        assert leases.claim(session, "w", 60) is not None
        for _ in range(2):
            make_job(session, server.project_id)
        session.execute(text("UPDATE jobs SET eligible_at = now() - interval '90 s' WHERE status = 'queued'"))
        later = make_job(session, server.project_id)
        postponed = text("UPDATE jobs SET eligible_at = now() + interval '1 h', nodes = 4 WHERE id = :id")
        session.execute(postponed, {"id": later.id})
    assert samples(server.url, "grouptune_jobs") == {
        ("validating_files",): 0,
        ("queued",): 3,
        ("running",): 1,
        ("paused",): 0,
    }
    assert samples(server.url, "grouptune_wanted_workers") == {(): 3 + 4}
    assert samples(server.url, "grouptune_queue_oldest_seconds")[()] == pytest.approx(90, abs=30)
    assert samples(server.url, "grouptune_database_up") == {(): 1}


def test_an_empty_queue_has_no_age(server: Server) -> None:
    assert samples(server.url, "grouptune_queue_oldest_seconds") == {(): 0}


def test_metrics_without_token_are_local(server: Server) -> None:
    assert httpx.get(f"{server.url}/metrics", trust_env=False).status_code == 200
    for header in ("x-forwarded-for", "forwarded", "x-real-ip"):
        answer = httpx.get(f"{server.url}/metrics", headers={header: "127.0.0.1"}, trust_env=False)
        assert (answer.status_code, "GROUPTUNE_METRICS_TOKEN" in answer.text) == (403, True)


def test_metrics_need_the_token_if_set(server: Server) -> None:
    settings = variant(server.settings, metrics_token=TOKEN)
    with serve(settings) as url, httpx.Client(trust_env=False) as http:
        for header in ({}, {"authorization": f"Bearer {server.api_key}"}, {"authorization": "Bearer scrape-mE"}):
            assert http.get(f"{url}/metrics", headers=header).status_code == 401
        answer = http.get(f"{url}/metrics", headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_remote_clients_need_a_token(server: Server) -> None:
    for address, status in (("10.1.2.3", 403), ("::1", 200)):
        app = create_app(server.settings)
        assert asyncio.run(_get(httpx.ASGITransport(app, client=(address, 1)))) == status
        app.state.database.dispose()


async def _get(transport: httpx.ASGITransport) -> int:
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return (await http.get("/metrics")).status_code


def test_unavailable_database_is_a_metric(server: Server) -> None:
    gone = variant(server.settings, database_url="postgresql+psycopg://unused@127.0.0.1:9/none")
    with serve(gone) as url:
        assert samples(url, "grouptune_database_up") == {(): 0}
        assert samples(url, "grouptune_jobs") == {}
