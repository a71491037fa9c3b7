"""Chats with the unmodified SDK over the embedded engine."""

import asyncio
import inspect
import json
from typing import Any, Literal

import httpx
import pydantic
import pytest
from openai import AsyncOpenAI, AzureOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.resources.chat.completions import Completions
from openai.types.chat import ChatCompletion as OpenAICompletion
from openai.types.chat import ChatCompletionChunk

from app.api.schemas.chat_answers import ChatCompletion
from app.api.schemas.chat_completions import CreateChatCompletion
from tests.api.server import Server, new_key

QUESTION: list[Any] = [{"role": "user", "content": "2+2="}]
NO_SPACE = {str(4 + ord(" ") - 32): -100, str(4 + 95): -100, str(4 + 96): -100}
"""Bias against whitespace, of which a random model writes any amount where JSON allows it."""
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "dive",
        "description": "Dives.",
        "parameters": {
            "type": "object",
            "properties": {"depth": {"type": "integer", "enum": [5]}},
            "required": ["depth"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
OTHER: Any = {"type": "function", "function": {"name": "surface", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def client(inference: Server) -> OpenAI:
    return inference.client(strict=True)


def ask(client: OpenAI, messages: Any = QUESTION, **options: Any) -> OpenAICompletion:
    body: Any = {"model": "tiny", "temperature": 0, "max_tokens": 8} | options
    answer: OpenAICompletion = client.chat.completions.create(messages=messages, **body)
    return answer


def chunks(client: OpenAI, **options: Any) -> list[ChatCompletionChunk]:
    body: Any = {"model": "tiny", "temperature": 0, "max_tokens": 8, "messages": QUESTION} | options
    with client.chat.completions.create(stream=True, **body) as stream:
        return list(stream)


def raw(server: Server, **body: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 4} | body
    headers = {"authorization": f"Bearer {server.api_key}"}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)


def test_answer_has_openais_shape(inference: Server, client: OpenAI) -> None:
    answer = ask(client)
    [choice] = answer.choices
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model, choice.index) == ("chat.completion", "tiny", 0)
    assert (choice.message.role, choice.finish_reason, choice.logprobs) == ("assistant", "length", None)
    assert choice.message.content
    assert len(choice.message.content) == 8
    assert answer.usage
    prompt = "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n"
    special = prompt.count("<|")
    tokens = len(prompt.replace("<|im_start|>", "").replace("<|im_end|>", "")) + special
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (tokens, 8)
    ChatCompletion.model_validate(raw(inference).json(), strict=True)


def test_stream_has_openais_shape(client: OpenAI) -> None:
    found = chunks(client, stream_options={"include_usage": True})
    first, *middle, last, usage = found
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert all(chunk.choices[0].delta.role is None and chunk.usage is None for chunk in middle)
    assert (last.choices[0].delta.content, last.choices[0].finish_reason) == (None, "length")
    assert usage.choices == []
    assert usage.usage
    assert usage.usage.completion_tokens == 8
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in found[:-1]) == ask(client).choices[0].message.content
    )
    assert {chunk.id for chunk in found} == {first.id}


def test_stream_ends_with_done(inference: Server) -> None:
    response = raw(inference, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"]
    assert response.text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in response.text


def test_sampling_parameters_reach_the_engine(client: OpenAI) -> None:
    sampled: dict[str, Any] = {"temperature": 1.5, "max_tokens": 12, "top_p": 0.9}
    one, same, other = (ask(client, seed=seed, **sampled).choices[0].message.content for seed in (1, 1, 2))
    assert one == same != other
    alone = ask(client, temperature=2, top_p=0, max_tokens=12).choices[0].message.content
    assert alone == ask(client, max_tokens=12).choices[0].message.content
    assert alone == ask(client, temperature=1e-300, max_tokens=12).choices[0].message.content
    several = ask(client, n=3, seed=1, **sampled)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in several.choices}) > 1
    biased = ask(client, logit_bias={"5": 100}, max_completion_tokens=4, max_tokens=None)
    assert biased.choices[0].message.content == "!!!!"
    penalised = ask(client, logit_bias={"5": 50, "6": 49}, frequency_penalty=2, presence_penalty=2, max_tokens=4)
    assert penalised.choices[0].message.content == '!"!"'


def test_stop_strings_are_left_out(client: OpenAI) -> None:
    whole = ask(client).choices[0].message.content or ""
    for stop in (whole[5], [whole[5:7], "never"]):
        choice = ask(client, stop=stop).choices[0]
        found = stop if isinstance(stop, str) else stop[0]
        assert (choice.message.content, choice.finish_reason) == (whole[: whole.index(found)], "stop")


def test_logprobs_have_bytes_and_alternatives(client: OpenAI) -> None:
    logprobs = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs
    streamed = [chunk.choices[0].logprobs for chunk in chunks(client, logprobs=True, top_logprobs=3)]
    assert logprobs
    assert logprobs.content
    assert len(logprobs.content) == 8
    for token in logprobs.content:
        assert bytes(token.bytes or []).decode() == token.token
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (t.logprob for t in token.top_logprobs), reverse=True
        )
        assert (len(token.top_logprobs), token.top_logprobs[0].token) == (3, token.token)  # greedy
    parts = [token for each in streamed if each and each.content for token in each.content]
    assert [token.token for token in parts] == [token.token for token in logprobs.content]
    assert ask(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []  # type: ignore[union-attr,index]


def test_logprobs_end_where_the_text_ends(client: OpenAI) -> None:
    options: Any = {"temperature": 1.5, "seed": 1, "logprobs": True}
    text = ask(client, **options).choices[0].message.content or ""
    options["stop"] = text[5:7]
    whole = ask(client, **options).choices[0]
    assert (whole.finish_reason, whole.message.content) == ("stop", text[:5])
    assert "".join(token.token for token in whole.logprobs.content) == whole.message.content  # type: ignore[union-attr]
    sent = ""
    for chunk in chunks(client, **options):
        [choice] = chunk.choices
        tokens = (choice.logprobs and choice.logprobs.content) or ()
        assert "".join(token.token for token in tokens) == (choice.delta.content or "")
        sent += choice.delta.content or ""
    assert sent == whole.message.content


class Depth(pydantic.BaseModel):
    metres: Literal[40]
    wet: Literal[True]


def test_schema_is_enforced(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model="tools", messages=QUESTION, response_format=Depth, logit_bias=NO_SPACE, max_tokens=60
    )
    assert parsed.choices[0].message.parsed == Depth(metres=40, wet=True)
    with client.chat.completions.stream(
        model="tools", messages=QUESTION, response_format=Depth, logit_bias=NO_SPACE, max_tokens=60
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Depth(metres=40, wet=True)


def test_json_mode_writes_an_object(client: OpenAI) -> None:
    bias = NO_SPACE | {str(4 + ord("}") - 32): 60}
    answer = ask(client, model="tools", response_format={"type": "json_object"}, logit_bias=bias, max_tokens=60)
    assert json.loads(answer.choices[0].message.content or "") == {}


def test_bad_schema_is_refused(client: OpenAI) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    with pytest.raises(BadRequestError) as refused:
        ask(client, model="tools", response_format=wrong)
    assert (refused.value.code, refused.value.param) == ("invalid_structured_output", "response_format")
    assert "The JSON schema of the answer cannot be compiled: Invalid type: nothing." in str(refused.value)
    tool = {"type": "function", "function": {"name": "x", "parameters": {"type": "nothing"}}}
    with pytest.raises(BadRequestError, match="The parameters of the function 'x' cannot be compiled") as refused:
        ask(client, model="tools", tools=[tool], tool_choice="required")
    assert refused.value.param == "tools"
    options = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"x-guidance": {}}}}
    with pytest.raises(BadRequestError, match="has the keyword 'x-guidance'") as refused:
        ask(client, model="tools", response_format=options)
    assert (refused.value.code, refused.value.param) == ("invalid_structured_output", "response_format")
    endless = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}
    with pytest.raises(BadRequestError, match="it allows no text") as refused:
        ask(client, model="tools", response_format=endless)
    assert (refused.value.code, refused.value.param) == ("invalid_structured_output", "response_format")


def test_required_call_is_made(client: OpenAI) -> None:
    tools: dict[str, Any] = {"model": "tools", "tools": [OTHER, TOOL], "logit_bias": NO_SPACE, "max_tokens": 200}
    answer = ask(client, tool_choice="required", parallel_tool_calls=False, **{**tools, "tools": [TOOL]})
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("dive", '{"depth": 5}')
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)
    named = ask(client, tool_choice={"type": "function", "function": {"name": "dive"}}, **tools)
    assert [call.function.name for call in named.choices[0].message.tool_calls or []] == ["dive"]  # type: ignore[union-attr]
    assert named.choices[0].finish_reason == "stop"


def test_cut_call_is_left_out(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "tools", "tools": [TOOL], "tool_choice": "required", "max_tokens": 30}
    options |= {"logit_bias": NO_SPACE, "logprobs": True}
    whole = ask(client, **options).choices[0]
    assert "".join(token.token for token in whole.logprobs.content).startswith("<tool_call>")  # type: ignore[union-attr]
    assert (whole.finish_reason, whole.message.content, whole.message.tool_calls) == ("length", "", None)
    with client.chat.completions.create(messages=QUESTION, stream=True, **options) as stream:
        chunks = [chunk.choices[0] for chunk in stream]
    assert [chunk.delta.content or "" for chunk in chunks] == [""] * len(chunks)
    assert [chunk.delta.tool_calls for chunk in chunks] == [None] * len(chunks)
    assert chunks[-1].finish_reason == "length"


def test_calls_are_streamed_and_parsed(client: OpenAI) -> None:
    options: Any = {"model": "tools", "messages": QUESTION, "tools": [TOOL], "tool_choice": "required"}
    options |= {"logit_bias": NO_SPACE, "max_tokens": 200, "parallel_tool_calls": False}
    with client.chat.completions.stream(**options) as stream:
        final = stream.get_final_completion().choices[0]
    [call] = final.message.tool_calls or []
    assert (call.function.name, call.function.parsed_arguments) == ("dive", {"depth": 5})
    assert (final.finish_reason, final.message.content) == ("tool_calls", None)
    # The SDK's own answer is a valid part of the next request.
    message = client.chat.completions.create(**options).choices[0].message
    assert message.tool_calls
    history = [*QUESTION, message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Wet"}]
    assert ask(client, history, model="tools", tools=[TOOL]).choices[0].message.content is not None


def test_legacy_functions_are_called(client: OpenAI) -> None:
    choice = ask(
        client,
        model="tools",
        functions=[TOOL["function"]],
        function_call={"name": "dive"},
        logit_bias=NO_SPACE,
        max_tokens=200,
    ).choices[0]
    assert choice.message.function_call
    assert (choice.message.function_call.name, choice.finish_reason) == ("dive", "stop")
    history: list[Any] = [*QUESTION, choice.message, {"role": "function", "name": "dive", "content": "Wet"}]
    assert ask(client, history, model="tools").choices[0].message.content is not None


def test_thoughts_are_kept_apart(client: OpenAI) -> None:
    answer = ask(client, model="thinker", logit_bias=NO_SPACE)
    message = answer.choices[0].message
    assert message.content == ""
    thoughts = message.model_extra["reasoning_content"] if message.model_extra else ""
    assert thoughts
    streamed = [
        chunk.choices[0].delta.model_extra or {} for chunk in chunks(client, model="thinker", logit_bias=NO_SPACE)
    ]
    assert "".join(extra.get("reasoning_content", "") for extra in streamed) == thoughts
    assert answer.usage
    assert answer.usage.completion_tokens_details
    assert (answer.usage.completion_tokens_details.reasoning_tokens or 0) > 0
    plain = ask(
        client, model="thinker", logit_bias=NO_SPACE, extra_body={"chat_template_kwargs": {"enable_thinking": False}}
    )
    assert plain.choices[0].message.content


def test_other_clients_of_the_sdk(inference: Server) -> None:
    async def ask_async() -> str | None:
        async with AsyncOpenAI(base_url=f"{inference.url}/v1", api_key=inference.api_key) as client:
            answer = await client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=4, temperature=0)
            return answer.choices[0].message.content

    azure = AzureOpenAI(azure_endpoint=inference.url, api_key=inference.api_key, api_version="2025-01-01")
    with azure:
        answer = azure.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=4, temperature=0)
    assert answer.choices[0].message.content == asyncio.run(ask_async())


@pytest.mark.parametrize(
    ("body", "param", "code", "words"),
    [
        ({"messages": []}, "messages", "invalid_request", "at least 1"),
        ({"n": 17}, "n", "invalid_request", "16"),
        ({"n": 0}, "n", "invalid_request", "1"),
        ({"max_tokens": 0}, "max_tokens", "invalid_request", "1"),
        ({"max_tokens": 600}, "messages", "context_length_exceeded", "512 tokens"),
        ({"messages": [{"role": "user", "content": "a" * 600}]}, "messages", "context_length_exceeded", "512 tokens"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            "messages.0.content.0",
            "invalid_request",
            "text only",
        ),
        ({"temperature": 2.5}, "temperature", "invalid_request", "2"),
        ({"temperature": "hot"}, "temperature", "invalid_request", "number"),
        ({"stop": ["a"] * 5}, "stop", "invalid_request", "4"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_request", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_request", "20"),
        ({"logit_bias": {"hello": 1}}, "logit_bias.hello", "invalid_request", "token id"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_request", "100"),
        ({"logit_bias": {"5000": 1}}, "logit_bias.5000", "invalid_request", "no token 5000"),
        ({"logit_bias": {"\u0663": 1}}, "logit_bias.\u0663", "invalid_request", "token id"),
        ({"tools": [TOOL]}, "tools", "unsupported_parameter", "does not write tools"),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_request", "only allowed with 'tools'"),
        (
            {"model": "tools", "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "fly"}}},
            "tool_choice",
            "invalid_request",
            "'fly'",
        ),
        ({"tools": [TOOL, TOOL]}, "tools.1.function.name", "invalid_request", "'dive'"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools.0.function.name",
            "invalid_request",
            "a b",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools.0.type", "invalid_request", "function"),
        ({"modalities": ["text", "audio"]}, "modalities", "invalid_request", "text only"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "invalid_request", "not supported"),
        ({"moderation": {"model": "x"}}, "moderation", "invalid_request", "not supported"),
        ({"web_search_options": {}}, "web_search_options", "invalid_request", "not supported"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter", "reasoning_effort"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x", "unsupported_parameter", "'x'"),
        ({"response_format": {"type": "xml"}}, "response_format", "invalid_request", "xml"),
        ({"mood": "good"}, "mood", "invalid_request", "Unknown field"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_request", "'stream': true"),
    ],
)
def test_bad_request_names_the_field(
    inference: Server, body: dict[str, Any], param: str, code: str, words: str
) -> None:
    response = raw(inference, **body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "@"}]}]},
            "messages.0",
        ),
        ("chat/completions", {"messages": QUESTION, "tools": [{**OTHER, "note": {"@": 1}}]}, "tools.0.note"),
        ("responses", {"input": [{"role": "user", "content": "@"}]}, "input.0.content"),
        ("responses", {"input": "a", "metadata": {"a": "@"}}, "metadata.a"),
        ("completions", {"prompt": "@"}, "prompt"),
    ],
)
def test_half_a_character_is_refused(inference: Server, path: str, body: dict[str, Any], param: str) -> None:
    content = json.dumps({"model": "tools", **body}).replace("@", "a\\ud83d")
    headers = {"authorization": f"Bearer {inference.api_key}", "content-type": "application/json"}
    response = httpx.post(f"{inference.url}/v1/{path}", content=content, headers=headers, trust_env=False)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"].startswith(param)
    assert "half a surrogate pair" in error["message"]


def test_fields_without_effect_are_accepted(inference: Server) -> None:
    fields: dict[str, Any] = {
        "user": "ada",
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "prompt_cache_key": "x",
        "safety_identifier": "y",
        "prediction": {"type": "content", "content": "4"},
        "modalities": ["text"],
        "verbosity": "medium",
        "temperature": None,
        "tools": None,
        "stop": None,
    }
    assert raw(inference, **fields).status_code == 200


def test_every_field_of_the_sdk_is_known() -> None:
    client_options = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    fields = set(inspect.signature(Completions.create).parameters) - client_options
    assert fields <= set(CreateChatCompletion.model_fields)


def test_unknown_model_is_not_found(inference: Server, client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as found:
        ask(client, model="gpt-5")
    assert (found.value.code, found.value.param) == ("model_not_found", "model")
    key = new_key(inference.database, inference.project_id, "models:*", "jobs:*")
    with pytest.raises(Exception, match="'inference'"):
        ask(inference.client(api_key=key))


def test_without_engine_the_answer_is_503(server: Server) -> None:
    response = raw(server)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_engine")
    assert "grouptune up" in response.json()["error"]["message"]
