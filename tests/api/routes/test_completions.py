"""`/v1/completions` with the official SDK and the embedded engine."""

import json
import math
import shutil
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI, RateLimitError
from sqlalchemy import select

from app.core.accounts import projects
from app.core.accounts.audit import Actor
from app.core.inference.tables import InferenceUsage
from tests.api.conftest import ENDLESS
from tests.api.server import Server, new_key
from tests.waiting import eventually

GREEDY: Any = {"model": "tiny", "temperature": 0, "max_tokens": 8}


@pytest.fixture
def client(inference: Server) -> OpenAI:
    return inference.client()


def used(server: Server) -> list[tuple[int, int, int]]:
    with server.database.reading() as session:
        rows = session.scalars(select(InferenceUsage).where(InferenceUsage.project_id == server.project_id))
        return [(row.requests, row.prompt_tokens, row.completion_tokens) for row in rows]


def test_text_and_ids_complete_alike(inference: Server, client: OpenAI) -> None:
    text = client.completions.create(prompt="ab", **GREEDY)
    ids = client.completions.create(prompt=[4 + ord("a") - 32, 4 + ord("b") - 32], **GREEDY)
    assert text.object == "text_completion"
    assert (text.model, text.choices[0].text) == ("tiny", ids.choices[0].text)
    assert len(text.choices[0].text) == 8
    assert text.usage is not None
    assert (text.usage.prompt_tokens, text.usage.completion_tokens, text.usage.total_tokens) == (2, 8, 10)
    eventually(lambda: used(inference) == [(2, 4, 16)])


def test_several_prompts_have_n_choices_each(client: OpenAI) -> None:
    found = client.completions.create(prompt=["ab", "xyz"], n=2, echo=True, **GREEDY)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert [choice.text[:2] for choice in found.choices] == ["ab", "ab", "xy", "xy"]
    alone = client.completions.create(prompt="xyz", echo=True, **GREEDY)
    assert found.choices[2].text == alone.choices[0].text
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (5, 32)


@pytest.mark.parametrize("prompt", ["ab", ["ab", "xyz"]])
def test_stream_equals_the_whole_completion(inference: Server, client: OpenAI, prompt: Any) -> None:
    options: Any = GREEDY | {"prompt": prompt, "n": 2, "echo": True}
    whole = client.completions.create(**options)
    texts = dict.fromkeys(range(len(whole.choices)), "")
    reasons: dict[int, str] = {}
    for chunk in client.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
    assert [texts[choice.index] for choice in whole.choices] == [choice.text for choice in whole.choices]
    assert set(reasons.values()) == {"length"}
    assert chunk.usage == whole.usage
    eventually(lambda: sum(row[0] for row in used(inference)) == 2)


def test_scores_of_a_prompt(client: OpenAI) -> None:
    """Evaluation libraries read the log-probability of a given text this way."""
    found = client.completions.create(model="tiny", prompt="abcd", echo=True, max_tokens=0, logprobs=2)
    [choice] = found.choices
    assert (choice.text, choice.finish_reason) == ("abcd", "length")
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["a", "b", "c", "d"]
    assert logprobs.text_offset == [0, 1, 2, 3]
    values: list[Any] = list(logprobs.token_logprobs or ())
    assert values[0] is None
    assert all(value < 0 for value in values[1:])
    tops: list[Any] = list(logprobs.top_logprobs or ())
    assert tops[0] is None
    assert [len(top) for top in tops[1:]] == [2, 2, 2]
    assert found.usage is not None
    assert found.usage.completion_tokens == 0


def test_logprobs_end_where_the_text_ends(client: OpenAI) -> None:
    options: Any = GREEDY | {"prompt": "ab", "temperature": 1.5, "seed": 1}
    text = client.completions.create(**options).choices[0].text
    options |= {"stop": text[5:7], "logprobs": 0}
    whole = client.completions.create(**options).choices[0]
    assert (whole.finish_reason, "".join(whole.logprobs.tokens or ())) == ("stop", whole.text)
    with client.completions.create(stream=True, **options) as stream:
        pieces = [chunk.choices[0] for chunk in stream]
    assert all("".join(piece.logprobs.tokens or ()) == piece.text for piece in pieces)
    offsets = [offset for piece in pieces for offset in piece.logprobs.text_offset or ()]
    assert offsets == whole.logprobs.text_offset == list(range(2, 7))
    assert whole.text == text[:5]


def test_logprobs_of_a_completion(client: OpenAI) -> None:
    found = client.completions.create(prompt="ab", logprobs=3, **GREEDY)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == found.choices[0].text
    assert logprobs.text_offset == list(range(2, 10))
    for token, value, top in zip(
        logprobs.tokens or (), logprobs.token_logprobs or (), logprobs.top_logprobs or (), strict=True
    ):
        assert top[token] == value == max(top.values())
        assert sum(map(math.exp, top.values())) <= 1 + 1e-6
    echoed = client.completions.create(prompt="ab", logprobs=3, echo=True, **GREEDY).choices[0].logprobs
    assert echoed is not None
    assert (echoed.tokens or [])[:2] == ["a", "b"]
    assert (echoed.token_logprobs or [])[2:] == logprobs.token_logprobs


def test_stop_text_ends_a_completion(client: OpenAI) -> None:
    text = client.completions.create(prompt="ab", **GREEDY).choices[0].text
    stop = text[3:5]
    found = client.completions.create(prompt="ab", stop=[stop], **GREEDY).choices[0]
    assert (found.text, found.finish_reason) == (text[: text.index(stop)], "stop")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_request"),
        ({"prompt": [5, 4000]}, "prompt", "invalid_request"),
        ({"prompt": [[5], []]}, "prompt.1", "invalid_request"),
        ({"prompt": [5, "a"]}, "prompt", "invalid_request"),
        ({"prompt": [5, True]}, "prompt", "invalid_request"),
        ({"prompt": [[5, 6.0]]}, "prompt", "invalid_request"),
        ({"prompt": {"text": "a"}}, "prompt", "invalid_request"),
        ({"prompt": "a", "stop": ""}, "stop", "invalid_request"),
        ({"prompt": "a" * 600}, "prompt", "context_length_exceeded"),
        ({"prompt": "a" * 60_000}, "prompt", "context_length_exceeded"),
        ({"prompt": "a", "max_tokens": 600}, "prompt", "context_length_exceeded"),
        ({"prompt": "a", "best_of": 2}, "best_of", "invalid_request"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "invalid_request"),
        ({"prompt": ["a"] * 16, "n": 9}, "n", "invalid_request"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "invalid_request"),
        ({"prompt": "a", "logprobs": 6}, "logprobs", "invalid_request"),
        ({"prompt": "a", "temperature": 3}, "temperature", "invalid_request"),
        ({"prompt": "a", "stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_request"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias.x", "invalid_request"),
        ({"prompt": "a", "logit_bias": {"5000": 1}}, "logit_bias.5000", "invalid_request"),
        ({"prompt": "a", "messages": []}, "messages", "invalid_request"),
    ],
)
def test_wrong_requests_are_refused(client: OpenAI, body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.post("/completions", body={"model": "tiny"} | body, cast_to=object)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_refused_stream_is_not_counted(inference: Server, client: OpenAI) -> None:
    """The engine refuses a token that the tokenizer has, because the weights have none for it."""
    directory = inference.settings.models_dir / "short"
    shutil.copytree(inference.settings.models_dir / "tiny", directory)
    try:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))
        with pytest.raises(BadRequestError, match="vocabulary has 50"):
            client.completions.create(model="short", prompt="z", stream=True)
    finally:
        shutil.rmtree(directory)
    client.completions.create(prompt="ab", **GREEDY)
    eventually(lambda: used(inference))
    assert used(inference) == [(1, 2, 8)]


def test_unknown_model_is_404(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.completions.create(model="ft:tiny:other::12345678", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_open_streams_hold_slots(inference: Server, client: OpenAI) -> None:
    """A stream holds its project's slot until it ends or the client hangs up; other projects are not affected."""
    with inference.database.transaction() as session:
        projects.update_project(
            session,
            Actor(inference.project_id),
            inference.project_id,
            archived=None,
            settings={"max_inference_requests": 1},
        )
    limited = inference.client(api_key=new_key(inference.database, inference.project_id))
    stream = limited.completions.create(prompt="ab", stream=True, **ENDLESS)
    next(iter(stream))
    with pytest.raises(RateLimitError) as caught:
        limited.completions.create(prompt="ab", **GREEDY)
    assert caught.value.code == "too_many_inference_requests"
    assert caught.value.response.headers["retry-after"] == "1"
    stream.close()

    def is_free() -> bool:
        try:
            return bool(limited.completions.create(prompt="ab", **GREEDY).choices)
        except RateLimitError:
            return False

    eventually(is_free)


def test_no_engine_is_503(server: Server) -> None:
    headers = {"authorization": f"Bearer {server.api_key}"}
    answer = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_engine")
