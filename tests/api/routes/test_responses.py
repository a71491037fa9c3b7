"""`/v1/responses` with the official SDK and the embedded engine."""

import json
from typing import Any, Literal

import httpx
import pydantic
import pytest
from openai import BadRequestError, OpenAI
from sqlalchemy import select

from app.core.inference.tables import InferenceUsage
from tests.api.routes.test_chat_completions import NO_SPACE, OTHER, TOOL
from tests.api.server import Server
from tests.waiting import eventually

GREEDY: Any = {"model": "tiny", "temperature": 0, "max_output_tokens": 8}
DIVE: Any = {"type": "function", **TOOL["function"]}
SURFACE: Any = {"type": "function", "strict": True, **OTHER["function"]}
CALL: Any = {"model": "tools", "tools": [DIVE], "parallel_tool_calls": False, "tool_choice": "required"}


class Depth(pydantic.BaseModel):
    metres: Literal[40]
    wet: Literal[True]


@pytest.fixture
def client(inference: Server) -> OpenAI:
    return inference.client(strict=True)


def test_text_equals_the_chat_completion(inference: Server, client: OpenAI) -> None:
    response = client.responses.create(input="2+2=", instructions="Add.", **GREEDY)
    messages: list[Any] = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2="}]
    chat = client.chat.completions.create(model="tiny", temperature=0, max_tokens=8, messages=messages)
    assert response.output_text == chat.choices[0].message.content
    assert (response.object, response.model, response.status) == ("response", "tiny", "incomplete")
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage
    assert chat.usage
    assert (response.usage.input_tokens, response.usage.output_tokens) == (chat.usage.prompt_tokens, 8)
    assert (response.instructions, response.error, response.model_extra) == ("Add.", None, {"store": False})

    def used() -> list[tuple[int, int]]:
        with inference.database.reading() as session:
            rows = session.scalars(select(InferenceUsage).where(InferenceUsage.project_id == inference.project_id))
            return [(row.requests, row.completion_tokens) for row in rows]

    eventually(lambda: sum(tokens for _, tokens in used()) == 16)


def test_stream_has_typed_events(client: OpenAI) -> None:
    whole = client.responses.create(input="2+2=", **GREEDY)
    with client.responses.stream(input="2+2=", **GREEDY) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.incomplete"
    assert text == last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


def test_stop_text_completes_a_response(client: OpenAI) -> None:
    text = client.responses.create(input="2+2=", **GREEDY).output_text
    with client.responses.stream(input="2+2=", extra_body={"stop": text[4]}, **GREEDY) as stream:
        response = stream.get_final_response()
    assert (response.status, response.output_text) == ("completed", text[: text.index(text[4])])


def test_schema_is_enforced_and_parsed(client: OpenAI) -> None:
    options: Any = {"model": "tools", "input": "2+2=", "text_format": Depth, "max_output_tokens": 60}
    options["extra_body"] = {"logit_bias": NO_SPACE}
    assert client.responses.parse(**options).output_parsed == Depth(metres=40, wet=True)
    with client.responses.stream(**options) as stream:
        assert stream.get_final_response().output_parsed == Depth(metres=40, wet=True)


def test_calls_and_their_outputs(client: OpenAI) -> None:
    options: Any = CALL | {"max_output_tokens": 200, "extra_body": {"logit_bias": NO_SPACE}}
    response = client.responses.create(input="Dive!", **options)
    [call] = [item for item in response.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("dive", {"depth": 5})
    with client.responses.stream(input="Dive!", **options) as stream:
        [streamed] = [item for item in stream.get_final_response().output if item.type == "function_call"]
    assert streamed.parsed_arguments == {"depth": 5}
    # The SDK's own answer is a valid part of the next request.
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Wet"}
    history: Any = [{"role": "user", "content": "Dive!"}, *response.output, result]
    following = client.responses.create(input=history, model="tools", tools=[DIVE], max_output_tokens=8)
    assert following.output
    cut = client.responses.create(input="Dive!", **options | {"max_output_tokens": 30})
    assert [(item.type, item.status) for item in cut.output] == [("message", "incomplete")]
    assert (cut.output_text, cut.status) == ("", "incomplete")
    named: Any = options | {"tools": [SURFACE, DIVE], "tool_choice": {"type": "function", "name": "dive"}}
    assert [item.type for item in client.responses.create(input="Dive!", **named).output] == ["function_call"]


def test_thoughts_are_an_item(client: OpenAI) -> None:
    options: Any = {"model": "thinker", "input": "2+2=", "temperature": 0, "max_output_tokens": 8}
    options["extra_body"] = {"logit_bias": NO_SPACE}
    thought = client.responses.create(**options)
    [item] = thought.output
    assert item.type == "reasoning"
    assert (thought.output_text, item.status) == ("", "incomplete")
    assert item.content
    text = item.content[0].text
    assert text
    assert thought.usage
    assert thought.usage.output_tokens_details.reasoning_tokens > 0
    with client.responses.stream(**options) as stream:
        deltas = [event.delta for event in stream if event.type == "response.reasoning_text.delta"]
    assert "".join(deltas) == text


def test_a_conversation_is_sent_as_items(client: OpenAI) -> None:
    items: Any = [
        {"role": "developer", "content": "Add."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2+2="}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4", "annotations": []}]},
        {"role": "user", "content": "3+3="},
    ]
    messages: list[Any] = [
        {"role": "developer", "content": "Add."},
        {"role": "user", "content": "2+2="},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "3+3="},
    ]
    chat = client.chat.completions.create(model="tiny", temperature=0, max_tokens=8, messages=messages)
    assert client.responses.create(input=items, **GREEDY).output_text == chat.choices[0].message.content


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": ""}, "input", "invalid_request"),
        ({"input": "a" * 600}, "input", "context_length_exceeded"),
        ({"input": [{"role": "user"}]}, "input.0.content", "invalid_request"),
        ({"input": [{"role": "wizard", "content": "a"}]}, "input.0.role", "invalid_request"),
        ({"input": [{"type": "computer_call"}]}, "input.0.type", "invalid_request"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", "unsupported_parameter"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0",
            "invalid_request",
        ),
        ({"input": [{"type": "function_call_output", "output": "4"}]}, "input.0.call_id", "invalid_request"),
        (
            {"input": [{"type": "function_call_output", "call_id": "call_9", "output": "4"}]},
            "input.0.call_id",
            "invalid_request",
        ),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "invalid_request"),
        ({"conversation": "conv_1"}, "conversation", "invalid_request"),
        ({"background": True}, "background", "invalid_request"),
        ({"truncation": "auto"}, "truncation", "invalid_request"),
        ({"include": ["message.output_text.logprobs"]}, "include", "invalid_request"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "invalid_request"),
        ({"tools": [DIVE]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_request"),
        ({"model": "tools", "tools": [DIVE], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", None),
        ({"model": "tools", "tools": [DIVE, DIVE]}, "tools.1.name", "invalid_request"),
        (
            {"model": "tools", "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}},
            "text.format",
            "invalid_structured_output",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"x-guidance": {}}}}},
            "text.format",
            "invalid_structured_output",
        ),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort", "unsupported_parameter"),
        ({"messages": []}, "messages", "invalid_request"),
    ],
)
def test_wrong_requests_are_refused(client: OpenAI, body: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.post("/responses", body={"model": "tiny", "input": "a", "max_output_tokens": 4} | body, cast_to=object)
    assert caught.value.param == param, caught.value.message
    assert code is None or caught.value.code == code


def test_store_is_accepted_and_reported(inference: Server) -> None:
    headers = {"authorization": f"Bearer {inference.api_key}"}
    body = {"model": "tiny", "input": "a", "max_output_tokens": 2, "store": True, "metadata": {"run": "7"}}
    answer = httpx.post(f"{inference.url}/v1/responses", json=body, headers=headers).json()
    assert (answer["store"], answer["metadata"], answer["previous_response_id"]) == (False, {"run": "7"}, None)
