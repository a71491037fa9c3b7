"""The cost of wrong bodies: how many errors they make, and how deeply they are nested."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from pydantic import TypeAdapter

from app.api.validation_errors import MAX_ERRORS, explain_each
from app.core.settings import Settings
from app.main import create_app
from tests.api.server import Server

MAX_ITEMS = 10_000
"""Most items of a list in a body that may each have an error."""


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of a schema of pydantic-core."""
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from nodes(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from nodes(value)


def test_no_body_makes_an_error_for_each_of_many_items(api_settings: Settings) -> None:
    bodies = [
        field.field_info.annotation
        for context in iter_route_contexts(create_app(api_settings).routes)
        if (field := getattr(context.original_route, "body_field", None)) is not None
    ]
    assert len(bodies) > 20
    lists = [node for body in bodies for node in nodes(TypeAdapter(body).core_schema) if node.get("type") == "list"]
    assert len(lists) > 5
    for node in lists:
        items = node.get("items_schema", {"type": "any"})
        takes_any = items["type"] == "any" or "JsonValue" in items.get("schema_ref", "")
        assert takes_any or node.get("fail_fast") or node.get("max_length", 1 << 30) <= MAX_ITEMS, node


def test_errors_that_are_explained_are_limited() -> None:
    errors = [{"type": "string_type", "loc": ("body", number), "input": 1} for number in range(10 * MAX_ERRORS)]
    assert len(explain_each(errors, list[str], None)) == MAX_ERRORS


@pytest.mark.parametrize("path", ["fine_tuning/jobs", "fine_tuning/estimate", "chat/completions", "responses"])
def test_deeply_nested_bodies_are_refused(server: Server, path: str) -> None:
    with httpx.Client(base_url=f"{server.url}/v1", headers={"authorization": f"Bearer {server.api_key}"}) as http:
        for depth in (200, 400, 600, 800, 900, 950, 1000):
            inner = '{"a":' * depth + "1" + "}" * depth
            grader = f'"method":{{"type":"reinforcement","reinforcement":{{"grader":{inner}}}}}'
            fields = f'"tools":[{inner}],"messages":[{inner}],"input":{inner},{grader}'
            body = f'{{"model":"tiny","training_file":"file-a",{fields}}}'
            refused = http.post(path, content=body, headers={"content-type": "application/json"})
            assert refused.status_code == 400, (depth, refused.text)
            assert refused.json()["error"]["message"]
