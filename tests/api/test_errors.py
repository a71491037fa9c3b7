"""Every error uses OpenAI's envelope, wherever it comes from."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, InternalServerError, NotFoundError, OpenAI

from app.core.errors import GrouptuneError
from app.core.settings import Settings
from app.main import PUBLIC
from tests.api.server import Server, serve, variant

DOCS = Path(__file__).parents[2] / "docs" / "errors.md"


@pytest.fixture
def http(server: Server) -> Any:
    """A plain HTTP client, for requests that no SDK sends."""
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {server.api_key}"}) as client:
        yield client


def envelope(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize("key", ["sk-wrong", "gt_live_aaaaaaaa_" + "b" * 32 + "_000000"])
def test_wrong_keys_are_401(server: Server, key: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        server.client(api_key=key).fine_tuning.jobs.list()
    error = caught.value
    assert (error.code, error.type) == ("invalid_api_key", "invalid_request_error")
    assert (error.request_id or "").startswith("req_")


def test_every_v1_route_needs_a_key(server: Server) -> None:
    schema = httpx.get(f"{server.url}/openapi.json").json()
    guarded = [
        (path, verb)
        for path, verbs in schema["paths"].items()
        for verb in verbs
        if path.startswith("/v1/") and path not in PUBLIC
    ]
    assert len(guarded) > 15
    for path, verb in guarded:
        response = httpx.request(verb, server.url + path.replace("{", "").replace("}", ""), json={})
        assert response.status_code == 401, (verb, path)
        assert "Authorization: Bearer" in envelope(response)["message"]


def test_unknown_routes_and_methods(http: httpx.Client) -> None:
    missing = http.get("/v1/chat/nothing")
    assert (missing.status_code, envelope(missing)["code"]) == (404, "route_not_found")
    assert "base_url" in envelope(http.get("/fine_tuning/jobs"))["message"]
    wrong = http.put("/v1/fine_tuning/jobs")
    assert (wrong.status_code, envelope(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"]


def test_base_url_without_v1_is_explained(server: Server) -> None:
    client = OpenAI(base_url=server.url, api_key=server.api_key)
    with pytest.raises(NotFoundError, match="/v1"):
        client.models.list()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"{", "application/json", "not valid JSON: line 1, column 2: a key is missing"),
        (b"", "application/json", "needs a body"),
        (b"[]", "application/json", "must be a JSON object"),
        (b"null", "application/json", "a body|JSON object"),
        (b'"text"', "application/json", "must be a JSON object"),
        (b'{"model": "tiny"}', "text/plain", "content-type: application/json"),
        (b"\xff\xfe", "application/json", "body"),
        (b"[" * 100_000, "application/json", "body"),
    ],
)
def test_bodies_that_are_no_json_object(http: httpx.Client, content: bytes, kind: str, message: str) -> None:
    response = http.post("/v1/fine_tuning/jobs", content=content, headers={"content-type": kind})
    assert response.status_code == 400
    assert re.search(message, envelope(response)["message"])
    assert envelope(response)["param"] is None


def test_a_json_body_over_the_cap_is_413(http: httpx.Client) -> None:
    response = http.post("/v1/fine_tuning/jobs", content=b" " * 9_000_000)
    assert (response.status_code, envelope(response)["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800"])
def test_unstorable_text_is_400(http: httpx.Client, text: str) -> None:
    bodies = (
        f'{{"model": "{text}", "training_file": "x"}}',
        f'{{"model": "tiny", "training_file": "{text}"}}',
    )
    for body in bodies:
        response = http.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400, body
        assert envelope(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("messages", [], "'messages' should have at least 1 item; you sent []."),
        ("messages", None, "'messages' should be a list; you sent null."),
        ("stop", ["a", "b", "c", "d", "e"], "'stop' should have at most 4 items; you sent"),
        ("stop", 5, "'stop' should be a string or a list; you sent 5."),
        ("tool_choice", "must", "'tool_choice' should be 'none', 'auto' or 'required' or an object; you sent"),
        ("tools", [{"type": "function", "function": {"name": "a b"}}], "name' should match ^[a-zA-Z0-9_-]+$; you sent"),
        ("max_tokens", 0, "'max_tokens' should be greater than or equal to 1; you sent 0."),
    ],
)
def test_wrong_values_are_explained(http: httpx.Client, field: str, value: object, message: str) -> None:
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]} | {field: value}
    error = envelope(http.post("/v1/chat/completions", json=chat))
    assert message in error["message"]
    assert error["param"].startswith(field)


def test_headers_of_a_response(http: httpx.Client) -> None:
    response = http.get("/v1/files")
    assert response.headers["x-request-id"].startswith("req_")
    assert int(response.headers["openai-processing-ms"]) >= 0
    assert response.headers["openai-version"] == "2020-10-01"


def test_missing_blob_is_a_500_envelope(server: Server) -> None:
    # A broken installation: the row exists, but its blob does not.
    client = server.client()
    file = client.files.create(file=b"{}", purpose="fine-tune")
    server.store.delete(f"files/{file.id}")
    with pytest.raises(InternalServerError) as caught:
        client.files.content(file.id)
    assert caught.value.status_code == 500
    assert caught.value.code == "blob_missing"
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"model": "\xe4"}', "it has the byte 0xe4, which is not utf-8"),
        (b'{"model": ' + b"[" * 100_000, "it is nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "it has a number of too many digits"),
    ],
)
def test_body_that_cannot_be_parsed(http: httpx.Client, body: bytes, problem: str) -> None:
    response = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    error = envelope(response)
    assert (response.status_code, error["code"]) == (400, "invalid_request")
    assert error["message"] == f"The body is not valid JSON: {problem}."


def test_handler_crash_is_an_envelope(server: Server, api_settings: Settings, tmp_path: Path) -> None:
    # The state directory is a file, so nothing can be stored: an OSError that no handler expects.
    (tmp_path / "file").write_text("")
    settings = variant(api_settings, state_dir=tmp_path / "file")
    with (
        serve(settings) as url,
        httpx.Client(headers={"authorization": f"Bearer {server.api_key}"}) as client,
    ):
        response = client.post(f"{url}/v1/files", data={"purpose": "fine-tune"}, files={"file": b"{}"})
        assert (response.status_code, envelope(response)["code"]) == (500, "internal_error")
        assert envelope(client.get(f"{url}/readyz"))["code"] == "not_ready"


def test_unavailable_database_is_503(server: Server, api_settings: Settings) -> None:
    nowhere = "postgresql+psycopg://unused@127.0.0.1:1/none"
    settings = variant(api_settings, database_url=nowhere)
    with serve(settings) as url:
        response = httpx.get(f"{url}/v1/files", headers={"authorization": f"Bearer {server.api_key}"})
        assert (response.status_code, envelope(response)["code"]) == (503, "database_unavailable")
        assert 0 < int(response.headers["retry-after"]) <= 120
        ready = httpx.get(f"{url}/readyz")
        assert (ready.status_code, envelope(ready)["code"]) == (503, "not_ready")
        assert "Postgres" in envelope(ready)["message"]
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


def test_readyz_is_ok(server: Server) -> None:
    assert httpx.get(f"{server.url}/readyz").json() == {"status": "ok"}


def test_document_describes_every_operation(server: Server) -> None:
    schema = httpx.get(f"{server.url}/openapi.json").json()
    for path, verbs in schema["paths"].items():
        for verb, operation in verbs.items():
            assert operation["tags"], (verb, path)
            assert operation["description"], (verb, path)
    assert "detail" not in json.dumps(schema["components"]["schemas"].get("ErrorEnvelope"))


def _all(error: type[GrouptuneError]) -> set[type[GrouptuneError]]:
    return {error}.union(*map(_all, error.__subclasses__()))


def test_every_error_code_is_documented() -> None:
    codes = {
        error.code
        for error in _all(GrouptuneError)
        if error.code and error.__module__.startswith(("app.core.", "app.auth.", "app.api."))
    }
    app = DOCS.parents[1] / "app"
    for source in (path for package in ("core", "auth", "api") for path in (app / package).rglob("*.py")):
        codes |= set(re.findall(r'\bcode="(\w+)"', source.read_text()))
    documented = set(re.findall(r"^\| `(\w+)`", DOCS.read_text(), re.MULTILINE))
    assert codes - documented == set()
