"""Signing a browser in by key and by link, cross-site requests, and the end of sessions."""

from collections.abc import Iterator

import httpx
import pytest

from app.auth.browser import COOKIE
from app.core.accounts import api_key_admin, api_keys
from app.core.accounts.audit import Actor
from app.core.settings import Settings
from tests.api.server import Server, new_key, serve, variant

SESSION = "/v1/dashboard/session"
OWN = {"sec-fetch-site": "same-origin"}


@pytest.fixture
def browser(server: Server) -> Iterator[httpx.Client]:
    """A client that keeps cookies and sends no key."""
    with httpx.Client(base_url=server.url, headers=OWN) as client:
        yield client


def link(server: Server) -> str:
    answer = httpx.post(f"{server.url}/v1/dashboard/links", headers={"authorization": f"Bearer {server.api_key}"})
    return str(answer.raise_for_status().json()["code"])


def test_key_signs_in(server: Server, browser: httpx.Client) -> None:
    assert browser.get(SESSION).json()["signed_in"] is False
    answer = browser.post(SESSION, json={"api_key": server.api_key})
    assert answer.json()["project_id"] == server.project_id
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert server.api_key not in answer.text + cookie
    assert browser.get("/v1/files").status_code == 200
    assert browser.get(SESSION).json()["signed_in"] is True
    token = browser.cookies[COOKIE]
    assert browser.delete(SESSION).json()["deleted"] is True
    again = httpx.get(f"{server.url}/v1/files", headers={"cookie": f"{COOKIE}={token}"})
    assert (again.status_code, again.json()["error"]["code"]) == (401, "session_expired")


def test_session_names_inference(server: Server, browser: httpx.Client, api_settings: Settings) -> None:
    """The playground needs an engine, and a key with the scope."""
    signed_in = browser.post(SESSION, json={"api_key": server.api_key}).json()
    assert ("inference" in signed_in["scopes"], signed_in["has_engine"]) == (True, False)
    with serve(variant(api_settings, serve_url=("http://127.0.0.1:9",))) as url:
        assert httpx.get(f"{url}{SESSION}", cookies=dict(browser.cookies)).json()["has_engine"] is True


def test_a_link_signs_in_once(server: Server, browser: httpx.Client) -> None:
    code = link(server)
    assert browser.post(SESSION, json={"code": code}).json()["signed_in"] is True
    answer = browser.post(SESSION, json={"code": code})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "link_expired")


def test_links_and_sessions_are_distinct(server: Server, browser: httpx.Client) -> None:
    code = link(server)
    answer = httpx.get(f"{server.url}/v1/files", headers={"cookie": f"{COOKIE}={code}"})
    assert answer.status_code == 401
    browser.post(SESSION, json={"code": code})
    assert browser.post(SESSION, json={"code": browser.cookies[COOKIE]}).status_code == 401


def test_a_revoked_key_ends_its_sessions(server: Server, browser: httpx.Client) -> None:
    key = new_key(server.database, server.project_id)
    browser.post(SESSION, json={"api_key": key})
    with server.database.transaction() as session:
        api_key_admin.revoke(session, Actor(server.project_id), api_keys.authenticate(session, key).key.id)
    assert browser.get("/v1/files").status_code == 401
    assert browser.get(SESSION).json()["signed_in"] is False


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {},
    ],
)
def test_other_sites_change_nothing(server: Server, browser: httpx.Client, headers: dict[str, str]) -> None:
    browser.post(SESSION, json={"api_key": server.api_key})
    cookie = {"cookie": f"{COOKIE}={browser.cookies[COOKIE]}"}
    sent = httpx.post(f"{server.url}/v1/fine_tuning/jobs", headers=cookie | headers, json={})
    assert (sent.status_code, sent.json()["error"]["code"]) == (403, "cross_site_request")
    signing_in = httpx.post(f"{server.url}{SESSION}", headers=headers, json={"api_key": server.api_key})
    assert signing_in.status_code == 403


def test_origin_is_checked_without_fetch_metadata(server: Server, browser: httpx.Client) -> None:
    browser.post(SESSION, json={"api_key": server.api_key})
    headers = {"cookie": f"{COOKIE}={browser.cookies[COOKIE]}", "origin": server.url}
    assert httpx.post(f"{server.url}/v1/fine_tuning/jobs", headers=headers, json={}).status_code == 400


def test_a_key_needs_no_proof_of_origin(server: Server) -> None:
    headers = {"authorization": f"Bearer {server.api_key}", "sec-fetch-site": "cross-site"}
    assert httpx.post(f"{server.url}/v1/fine_tuning/jobs", headers=headers, json={}).status_code == 400


def test_signing_in_takes_one_proof(browser: httpx.Client) -> None:
    for body in ({}, {"api_key": "x", "code": "y"}):
        assert browser.post(SESSION, json=body).status_code == 400


def test_pages_forbid_what_they_do_not_need(server: Server) -> None:
    for path in ("/ui/", "/ui/jobs/x", "/ui/%2e%2e/%2e%2e/main.py"):
        answer = httpx.get(server.url + path)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "create_app" not in answer.text
    assert httpx.get(server.url).headers["location"] == "ui/"  # relative, so it works below a path prefix


@pytest.mark.parametrize("path", ["%00", "x" * 5000, "a/" * 2000, "..%2f..%2fetc/passwd"])
def test_impossible_file_names_serve_the_page(server: Server, path: str) -> None:
    page = httpx.get(f"{server.url}/ui/no-such-file")  # 503 with an explanation while the dashboard is not built
    assert httpx.get(f"{server.url}/ui/{path}").status_code == page.status_code != 500
