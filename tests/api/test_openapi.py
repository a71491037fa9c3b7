"""Requests generated from the OpenAPI document: no 5xx, and every response matches its schema."""

import json
from collections.abc import Iterator
from typing import Any, Final

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.examples import EXAMPLES
from app.core.accounts.scopes import ALL
from app.core.settings import Settings
from app.main import create_app
from tests.api.server import Server, new_key
from tests.api.test_every_route import theirs
from tests.properties import examples

CHECKS: Final = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
__all__ = ["theirs"]
ENDLESS: Final = r"/stream$"
"""Streams never end; tests/api/routes/test_streams.py tests them."""
INFERENCE: Final = r"^/v1/(chat/completions|completions|responses)$"


# Read at collection from an app without engines; the document is the same.
_APP: Final = create_app(Settings.model_validate({"DATABASE_URL": "postgresql+psycopg://unused/unused"}))
whole = schemathesis.openapi.from_dict(_APP.openapi()).exclude(path_regex=ENDLESS)
whole.config.phases.coverage.enabled = False  # it would send thousands of requests to each route with a large body
schema = whole.exclude(path_regex=INFERENCE)
inference_schema = whole.include(path_regex=INFERENCE)
few_examples: Final = settings(
    max_examples=examples(10),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.hypothesis
@inference_schema.parametrize()
@few_examples
def test_answers_match_the_document(case: Any, inference: Server) -> None:
    """These need an engine."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "tiny"
    headers = {"authorization": f"Bearer {inference.api_key}"}
    case.call_and_validate(base_url=inference.url, headers=headers, checks=CHECKS)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "1+1="}], "max_tokens": 2}),
        ("/v1/completions", {"prompt": "1+1=", "max_tokens": 2}),
        ("/v1/responses", {"input": "1+1=", "max_output_tokens": 16}),
    ],
)
def test_streamed_answers_match_the_document(path: str, body: dict[str, Any], inference: Server) -> None:
    whole_body: Any = {"model": "tiny", "stream": True} | body
    case = inference_schema[path]["POST"].Case(body=whole_body)
    headers = {"authorization": f"Bearer {inference.api_key}"}
    answer = case.call_and_validate(base_url=inference.url, headers=headers, checks=CHECKS)
    assert answer.headers["content-type"] == ["text/event-stream; charset=utf-8"]


@pytest.mark.hypothesis
@schema.parametrize()
@few_examples
def test_responses_match_the_document(case: Any, server: Server, theirs: dict[str, str]) -> None:
    """Requests use ids that exist, so that most of them reach the handler."""
    case.path_parameters |= {name: theirs[name] for name in case.path_parameters if name in theirs}
    if isinstance(case.body, dict):
        existing = {"training_file": theirs["file_id"], "model": "tiny"}
        case.body |= {
            name: existing[name] for name in case.body if name in existing and isinstance(case.body[name], str)
        }
    key = new_key(server.database, theirs["project_id"], *ALL)
    response = case.call(base_url=server.url, headers={"authorization": f"Bearer {key}"})
    # The server of these tests has no inference engine.
    checks = CHECKS[1:] if b'"no_engine"' in response.content else CHECKS
    case.validate_response(response, checks=checks)


DOCUMENT: Final = json.loads(json.dumps(_APP.openapi()))


def operations() -> Iterator[tuple[str, Any]]:
    for path, verbs in DOCUMENT["paths"].items():
        for verb, operation in verbs.items():
            yield f"{verb} {path}", operation


def test_every_parameter_is_described() -> None:
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for name, operation in operations():
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= tags, name
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description") or parameter["schema"].get("description"), (name, parameter["name"])


def test_every_body_has_a_valid_example() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    sent = set()
    for _, operation in operations():
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        for form in (schema, *schema.get("anyOf", ())):
            sent |= {form["$ref"].rpartition("/")[2]} if "$ref" in form else set()
    assert sent == set(EXAMPLES)
    for name in sent:
        [example] = schemas[name]["examples"]
        whole = schemas[name] | {"components": DOCUMENT["components"]}
        assert [error.message for error in jsonschema.Draft202012Validator(whole).iter_errors(example)] == [], name


def test_every_field_is_described() -> None:
    schemas = _APP.openapi()["components"]["schemas"]
    fields = {
        f"{name}.{field}": text for name, one in schemas.items() for field, text in one.get("properties", {}).items()
    }
    assert len(fields) > 1000
    assert [name for name, field in fields.items() if not field.get("description", "").endswith(".")] == []
    assert [name for name, one in schemas.items() if "properties" in one and not one.get("description")] == []
