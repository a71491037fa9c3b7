"""Rules for every route. Routes are read from the app, so that new ones are tested without being listed here."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from app.auth.scopes import declared
from app.core.accounts.audit import Actor
from app.core.accounts.scopes import ALL, Scope, expand
from app.core.evals import runs
from app.core.files import chunked_uploads
from app.core.jobs import leases, outcomes
from app.core.jobs.tables import Checkpoint
from app.core.models import aliases, permissions
from app.core.models.tables import TrainedModel
from app.core.secrets import KeyRing
from app.core.settings import Settings
from app.core.spec.reports import Finished
from app.core.teachers import keys
from app.core.webhooks import endpoints
from app.core.webhooks.events import EventType, emit
from app.main import PUBLIC, create_app
from tests.api.conftest import SECRET_KEY
from tests.api.server import Server, new_key, new_project
from tests.evals import completed_run
from tests.setup_jobs import make_job, metrics_csv, stored_file
from tests.setup_models import stored_export

Route = tuple[str, str]
"""Method and path."""

NEW_ALIAS: Final[Route] = ("PUT", "/v1/model_aliases/{alias:path}")
"""Creates what its path names."""
BODIES: Final[dict[Route, Any]] = {
    ("POST", "/v1/projects/{project_id}"): {},
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/test"): {"event_type": "fine_tuning.job.failed"},
    ("POST", "/v1/webhook_endpoints/{endpoint_id}"): {"name": "x"},
    ("POST", "/v1/uploads/{upload_id}/complete"): {"part_ids": ["part_x"]},
    ("POST", "/v1/files/{file_id}/convert"): {},
    ("POST", "/v1/files/{file_id}/convert/preview"): {},
    ("POST", "/v1/files/{file_id}/lint"): {"grader": {"type": "math", "reference": "1"}},
    ("POST", "/v1/evals/{eval_id}"): {"name": "x"},
    ("POST", "/v1/evals/{eval_id}/runs"): {
        "data_source": {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {}}]}}
    },
    ("POST", "/v1/files/{file_id}/suggested_method"): {},
    NEW_ALIAS: {"model": "ft:tiny:other::12345678"},
    ("POST", "/v1/models/{model:path}/exports"): {"format": "merged"},
    ("POST", "/v1/fine_tuning/jobs/{job_id}"): {"priority": 0},
    ("POST", "/v1/fine_tuning/jobs/{job_id}/regrade"): {"grader": {"type": "math", "reference": "1"}},
    ("POST", "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"): {"project_ids": ["proj_x"]},
}
"""Bodies that routes need before they check the ids in their path."""
INSTALLATION_WIDE: Final = {Scope.admin}
"""Routes with these scopes are for administrators, who see all projects."""


@pytest.fixture(scope="module")
def routes(api_settings: Settings) -> dict[Route, Scope]:
    """Return all routes that need a key, with their scope."""
    contexts = iter_route_contexts(create_app(api_settings).routes)
    operations = [(method, context) for context in contexts for method in context.methods or ()]
    return {
        (method, str(context.path)): declared(context)[0]
        for method, context in operations
        if context.path not in PUBLIC
    }


@pytest.fixture(scope="module")
def document(api_settings: Settings) -> Any:
    """The OpenAPI document that clients get."""
    return json.loads(json.dumps(create_app(api_settings).openapi()))


def path_of(route: Route, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)(?::path)?\}", lambda match: ids[match[1]], route[1])


def test_every_private_path_needs_a_key(server: Server, routes: dict[Route, Scope]) -> None:
    assert len(routes) > 25
    for method, path in routes:
        answer = httpx.request(method, server.url + path.replace("{", "").replace("}", ""))
        assert answer.status_code == 401, (method, path)


def test_every_route_requires_its_scope(server: Server, routes: dict[Route, Scope]) -> None:
    for scope in sorted(set(routes.values())):
        others = [str(name) for name in expand(ALL) if name != scope]
        key = new_key(server.database, server.project_id, *others)
        with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}) as http:
            for method, path in (route for route, needed in routes.items() if needed == scope):
                answer = http.request(method, path.replace("{", "").replace("}", ""))
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (403, "insufficient_scope"), (method, path)
                assert f"'{scope}'" in error["message"]


def test_head_answers_as_get(server: Server, routes: dict[Route, Scope]) -> None:
    """A HEAD of an endless stream ends, too."""
    key = new_key(server.database, server.project_id, *expand(ALL))
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}) as http:
        for path in [path for method, path in routes if method == "GET"] + ["/", "/healthz", "/readyz", "/docs/"]:
            url = path.replace("{", "").replace("}", "")
            head = http.head(url)
            with http.stream("GET", url) as answer:
                assert (head.status_code, head.content) == (answer.status_code, b""), path
                assert head.headers.get("content-type") == answer.headers.get("content-type"), path
        statuses = {http.head(path).status_code for path in ("/v1/fine_tuning/stream", "/v1/files", "/healthz")}
        assert statuses == {200}
        file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("x.jsonl", b"{}" * 1000)}).json()
        head = http.head(f"/v1/files/{file['id']}/content")
        assert (head.headers["content-length"], head.content) == ("2000", b"")


def test_405_names_all_methods_of_the_path(server: Server, routes: dict[Route, Scope]) -> None:
    methods: dict[str, set[str]] = {}
    for method, path in routes:
        methods.setdefault(path, set()).update({method, "HEAD"} if method == "GET" else {method})
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {server.api_key}"}) as http:
        for path, own in methods.items():
            answer = http.patch(path.replace("{", "").replace("}", ""))
            allowed = answer.headers["allow"]
            assert (answer.status_code, own - set(allowed.split(", "))) == (405, set()), path
            assert f"use {allowed}." in answer.json()["error"]["message"]
        assert http.put("/v1/files").headers["allow"] == "GET, HEAD, POST"


def test_document_has_every_scope(document: Any, routes: dict[Route, Scope]) -> None:
    for (method, path), scope in routes.items():
        operation = document["paths"][path.replace(":path", "")][method.lower()]
        assert operation["security"] == [{"HTTPBearer": [scope]}], (method, path)


@pytest.fixture
def theirs(server: Server, tmp_path: Path) -> dict[str, str]:
    """Ids of another project's objects, by the name of the path parameter."""
    project_id, _ = new_project(server.database, "theirs")
    with server.database.transaction() as session:
        file = stored_file(session, server.store, project_id, tmp_path)
        done = make_job(session, project_id, file=file)
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        finished = Finished(step=1, path="/x", trained_tokens=1, published_step=1, reason="the last step")
        model = outcomes.succeed(session, claim, finished, "jobs/x/a1/adapter", "tiny", metrics_csv())
        assert model is not None
        queued = make_job(session, project_id, file=file)
        assert done.id != queued.id
        upload = chunked_uploads.create_upload(
            session, project_id, size=4, filename="u", purpose="fine-tune", file_seconds=None, max_bytes=9
        )
        [permission] = permissions.grant(session, project_id, model, [project_id])
        aliases.move(session, project_id, "theirs", model)
        endpoint, _ = endpoints.create(
            session,
            Actor(project_id),
            KeyRing((SECRET_KEY,)),
            name="theirs",
            url="https://x.example",
            event_types=[EventType.cancelled],
        )
        emit(session, project_id, EventType.cancelled, queued.id)
        export = stored_export(session, server.store, project_id, model)
        run = completed_run(session, project_id)
        teacher_key = keys.put(session, Actor(project_id), KeyRing((SECRET_KEY,)), "https://x.example/v1", "k")
        session.add(Checkpoint(id="ftckpt_theirs", job_id=queued.id, attempt=1, step=1, blob="jobs/x/1", metrics={}))
        session.add(
            TrainedModel(
                id=f"{model}:ckpt-step-1",
                project_id=project_id,
                job_id=queued.id,
                step=1,
                base_model="tiny",
                blob="jobs/x/1",
            )
        )
        [delivery], _ = endpoints.list_deliveries(session, project_id, endpoint.id, after=None, limit=1)
        return {
            "alias": "theirs",
            "file_id": file.id,
            "job_id": queued.id,
            "model": model,
            "checkpoint": model,
            "checkpoint_id": "ftckpt_theirs",
            "permission_id": permission.id,
            "upload_id": upload.id,
            "project_id": project_id,
            "endpoint_id": endpoint.id,
            "delivery_id": delivery.id,
            "key_id": teacher_key.id,
            "export_id": export.id,
            "eval_id": run.eval_id,
            "run_id": run.id,
            "baseline_id": run.id,
            "output_item_id": runs.item_id(run.id, 1),
        }


def test_foreign_objects_are_404_on_every_route(
    server: Server, routes: dict[Route, Scope], theirs: dict[str, str]
) -> None:
    with_ids = [route for route, scope in routes.items() if "{" in route[1] and scope not in INSTALLATION_WIDE]
    assert len(with_ids) > 15
    every = new_key(server.database, server.project_id, *ALL)
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {every}"}) as http:
        for route in with_ids:
            answer = http.request(route[0], path_of(route, theirs), json=BODIES.get(route))
            assert answer.status_code == 404, (route, answer.text)
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert theirs["project_id"] not in answer.text
        for lists in ("files", "fine_tuning/jobs"):
            assert http.get(f"/v1/{lists}").json()["data"] == []
        assert theirs["model"] not in http.get("/v1/models").text


@pytest.mark.parametrize("text", ["%00", "x" * 1000, "a%20b", "%F0%9F%98%80"])
def test_impossible_id_is_404_on_every_route(server: Server, routes: dict[Route, Scope], text: str) -> None:
    every = new_key(server.database, server.project_id, *ALL)
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {every}"}) as http:
        for route in [route for route in routes if "{" in route[1] and route != NEW_ALIAS]:
            path = re.sub(r"{[^}]*}", text, route[1])
            answer = http.request(route[0], path, json=BODIES.get(route))
            assert answer.status_code == 404, (route, answer.text)


def test_own_objects_are_found_on_every_route(
    server: Server, routes: dict[Route, Scope], theirs: dict[str, str]
) -> None:
    """Otherwise the test above would also pass with ids that do not exist."""
    own = new_key(server.database, theirs["project_id"])
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {own}"}) as http:
        for route, scope in routes.items():
            if route[0] == "GET" and "{" in route[1] and scope not in INSTALLATION_WIDE:
                with http.stream("GET", path_of(route, theirs)) as answer:
                    assert answer.status_code == 200, route
                    if not answer.headers["content-type"].startswith("text/event-stream"):  # streams never end
                        answer.read()


def test_files_of_other_projects_are_refused(server: Server, theirs: dict[str, str]) -> None:
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {server.api_key}"}) as http:
        for body, code in (
            ({"model": "tiny", "training_file": theirs["file_id"]}, "file_not_found"),
            ({"model": theirs["model"], "training_file": theirs["file_id"]}, "model_not_found"),
        ):
            answer = http.post("/v1/fine_tuning/jobs", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


FREE: Final = {"CreateJob.gft"}
"""Validated after it is merged into `method`, whose schema bounds it."""


CAPS: Final = {
    "integer": {"maximum", "exclusiveMaximum"},
    "number": {"maximum", "exclusiveMaximum"},
    "string": {"maxLength"},
    "array": {"maxItems"},
    "object": {"maxProperties", "properties"},
}
"""Type -> keyword that bounds it, in addition to `enum` and `const`."""


def unbounded(document: Any) -> Iterator[str]:
    """Yield every number, text and list in requests that is not bounded."""
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            sent = {parameter["name"]: parameter["schema"] for parameter in operation.get("parameters", ())}
            sent |= {kind: item["schema"] for kind, item in operation.get("requestBody", {}).get("content", {}).items()}
            for name, schema in sent.items():
                yield from _unbounded(document, schema, f"{verb} {path} {name}", set())


def _unbounded(document: Any, schema: Any, where: str, seen: set[str]) -> Iterator[str]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in seen:
            yield from _unbounded(document, document["components"]["schemas"][name], name, seen | {name})
        return
    for member, place in _parts(schema):
        yield from _unbounded(document, member, where + place, seen)
    caps = CAPS.get(schema.get("type"))
    if caps and schema.get("format") != "binary" and not (caps | {"enum", "const"}) & schema.keys():
        yield where


def _parts(schema: Any) -> Iterator[tuple[Any, str]]:
    """Yield the schemas inside a schema, with the suffix that each adds to the name."""
    for union in ("anyOf", "oneOf", "allOf"):
        yield from ((member, "") for member in schema.get(union, ()))
    yield from ((member, f".{name}") for name, member in schema.get("properties", {}).items())
    yield from (
        (schema[key], mark) for key, mark in (("items", "[]"), ("additionalProperties", "{}")) if _is(schema, key)
    )


def _is(schema: Any, key: str) -> bool:
    return isinstance(schema.get(key), dict)


def test_every_input_is_bounded(document: Any) -> None:
    assert set(unbounded(document)) == FREE


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 1},
        {"type": "number"},
        {"type": "string"},
        {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "integer"}]},
        {"type": "array", "items": {"const": 1}},
        {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        {"type": "object"},
    ],
)
def test_bounds_check_finds_unbounded_input(schema: Any) -> None:
    parameter = {"name": "x", "schema": schema}
    assert list(unbounded({"paths": {"/p": {"get": {"parameters": [parameter]}}}}))
