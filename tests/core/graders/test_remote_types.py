"""Judges and reward servers as real HTTP servers: requests, replies, retries and errors."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter
from standardwebhooks import Webhook

from app.core.graders.run import ExternalServices, Grade, GraderPool, Sample, Toolbox, grade
from app.core.graders.types import ErrorType, TokenUsage
from app.core.spec.graders import Grader
from tests.http_server import Received, Reply, http_server

adapter: TypeAdapter[Grader] = TypeAdapter(Grader)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105
SCORE = {
    "type": "score_model",
    "model": "judge-1",
    "input": [
        {"role": "system", "content": "You are strict."},
        {"role": "user", "content": [{"type": "input_text", "text": "Answer: {{sample.output_text}}"}]},
        {"role": "user", "content": {"type": "input_text", "text": "Truth: {{item.truth}}"}},
    ],
    "range": [0, 10],
    "sampling_params": {"temperature": 0, "max_completions_tokens": 200},
}
LABEL = {
    "type": "label_model",
    "model": "judge-1",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    "labels": ["good", "fair", "bad"],
    "passing_labels": ["good", "fair"],
}


def completion(content: Any, **message: Any) -> Reply:
    text = content if isinstance(content, str) else json.dumps(content)
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 20}}
    choices = [{"message": {"role": "assistant", "content": text, **message}}]
    return Reply(json.dumps({"choices": choices, "usage": usage}).encode())


def judged(fields: dict[str, Any], answer: Callable[[Received], Reply], text: str = "4") -> Grade:
    with http_server(answer) as url, Toolbox(ExternalServices(judge_url=f"{url}/v1", judge_api_key="k")) as tools:
        return grade(adapter.validate_python(fields), Sample(output_text=text), {"truth": "5"}, tools)


def test_judge_request() -> None:
    seen: list[Received] = []

    def answer(request: Received) -> Reply:
        seen.append(request)
        return completion({"steps": [], "result": 7})

    graded = judged(SCORE, answer)
    assert graded.reward == 7
    assert graded.usage == {"judge-1": TokenUsage(prompt_tokens=30, completion_tokens=5, cached_tokens=20)}
    [request] = seen
    assert (request.path, request.headers["authorization"]) == ("/v1/chat/completions", "Bearer k")
    body = json.loads(request.body)
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("judge-1", 0, 200)
    assert [message["content"] for message in body["messages"][1:]] == ["Answer: 4", "Truth: 5"]
    assert body["messages"][0]["content"].startswith("You are strict.\n\nAnswer with JSON alone")
    assert "a number from 0 to 10" in body["messages"][0]["content"]
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["steps", "result"]


@pytest.mark.parametrize(
    ("content", "reward"),
    [
        ({"steps": [], "result": 7.5}, 7.5),
        ({"result": 70}, 10),
        ({"result": -3}, 0),
    ],
)
def test_judge_score_is_clipped(content: Any, reward: float) -> None:
    graded = judged(SCORE, lambda _: completion(content))
    raw = content["result"]
    assert graded.scores == {"score_model": reward} | ({} if raw == reward else {"score_model/unclipped": raw})
    multi = {"type": "multi", "graders": {"a": SCORE, "b": SCORE}, "calculate_output": "a + b"}
    combined = judged(multi, lambda _: completion(content))
    clipped = {} if raw == reward else {"a/unclipped": raw, "b/unclipped": raw}
    assert combined.scores == {"a": reward, "b": reward, "multi": 2 * reward} | clipped


@pytest.mark.parametrize(
    "content",
    [
        '```json\n{"steps": [], "result": 2}\n```',
        '<think>Looks right. {"result": 9}?</think>\n{"steps": [], "result": 2}',
        '{"steps": [], "result": 2}\n\nI hope this helps!',
        'Here is my grade:\n```\n{"result": 2}\n```\nBye {name}.',
        'First {"result": 5}, but after the correction {"result": 2.0}',
        '{"steps": [{"description": "a", "conclusion": "{b"}], "result": "2"}',
        "{'result': 2}",
        "{'steps': [], 'result': 2}",
        '{"score": 2}',
        '{"rating": " 2.0 "}',
    ],
)
def test_judge_result_inside_other_text(content: str) -> None:
    assert judged(SCORE, lambda _: completion(content)).reward == 2


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "reasoning_content": '{"result": 2}'},
        {"content": "", "reasoning": "So it is {'result': 2}"},
        {"content": [{"type": "text", "text": '{"result": 2}'}]},
    ],
)
def test_judge_result_in_other_fields(message: dict[str, Any]) -> None:
    reply = Reply(json.dumps({"choices": [{"message": message}]}).encode())
    assert judged(SCORE, lambda _: reply).reward == 2


def test_judge_reply_that_was_cut_off() -> None:
    choice = {"message": {"content": '{"steps": ['}, "finish_reason": "length"}
    reply = Reply(json.dumps({"choices": [choice]}).encode())
    assert str(judged(SCORE, lambda _: reply).error).endswith("It was cut off; raise max_completion_tokens.")


def test_label_inside_other_text() -> None:
    assert judged(LABEL, lambda _: completion('<think>fine</think>{"label": "fair "} Done.')).reward == 1


def test_judge_without_response_format() -> None:
    """The request is repeated without it once; later requests to this judge leave it out at once."""
    formats: list[bool] = []

    def answer(request: Received) -> Reply:
        formats.append("response_format" in json.loads(request.body))
        refusal = b'{"error": {"message": "response_format json_schema is not supported"}}'
        return Reply(refusal, 400) if formats[-1] else completion("My verdict: {'result': 2}")

    pairs = [(Sample(output_text="4"), {"truth": "5"})]
    with (
        http_server(answer) as url,
        GraderPool(adapter.validate_python(SCORE), ExternalServices(judge_url=f"{url}/v1")) as pool,
    ):
        assert [pool.grade_many(pairs)[0].reward for _ in range(2)] == [2, 2]
    assert formats == [True, False, False]


def test_other_judge_errors_are_not_repeated() -> None:
    seen: list[Received] = []

    def answer(request: Received) -> Reply:
        seen.append(request)
        return Reply(b'{"error": "the prompt is too long"}', 400)

    assert "too long" in str(judged(SCORE, answer).error)
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_completions_tokens"])
def test_judge_token_limit_has_several_names(name: str) -> None:
    seen: list[Any] = []

    def answer(request: Received) -> Reply:
        seen.append(json.loads(request.body))
        return completion({"result": 1})

    judged(SCORE | {"sampling_params": {name: 200}}, answer)
    assert seen[0]["max_tokens" if name == "max_tokens" else "max_completion_tokens"] == 200


@pytest.mark.parametrize(
    ("label", "reward"), [("good", 1), ("fair", 1), ("bad", 0), ("Good", 1), (" FAIR. ", 1), ('"bad"', 0)]
)
def test_labels(label: str, reward: float) -> None:
    assert judged(LABEL, lambda _: completion({"result": label})).reward == reward


@pytest.mark.parametrize(
    ("fields", "reply", "error_type", "message"),
    [
        (SCORE, completion("I would say 7"), ErrorType.judge_parse, "not JSON with a result: I would say 7"),
        (SCORE, completion({"result": "seven"}), ErrorType.judge_parse, "is 'seven', which is not a number"),
        (SCORE, completion('{"result": NaN}'), ErrorType.judge_parse, "not a number"),
        (SCORE, completion({"points": 7}), ErrorType.judge_parse, 'not JSON with a result: {"points": 7}'),
        (SCORE, completion("7/10"), ErrorType.judge_parse, "not JSON with a result: 7/10"),
        (SCORE, completion({"result": True}), ErrorType.judge_parse, "is True, which is not a number"),
        (SCORE, completion('<think>{"result": 7} or'), ErrorType.judge_parse, "not JSON with a result"),
        (SCORE, completion("", refusal="I cannot"), ErrorType.judge_refusal, "refused: I cannot"),
        (LABEL, completion({"result": "great"}), ErrorType.judge_parse, "not one of ['good', 'fair', 'bad']"),
        (SCORE, Reply(b'{"error": "no such model"}', 404), ErrorType.judge_server, "answered 404"),
        (SCORE, Reply(b"<html>"), ErrorType.judge_server, "did not answer with JSON"),
        (SCORE, Reply(b"[]"), ErrorType.judge_server, "is not a JSON object"),
        (
            SCORE,
            Reply(b'{"error": "overloaded"}'),
            ErrorType.judge_server,
            'not a chat completion: {"error": "overloaded"}',
        ),
        (SCORE, completion("\ud800 no"), ErrorType.judge_parse, "not JSON with a result: ? no"),
        (SCORE, Reply(status=302, headers={"location": "/x"}), ErrorType.judge_server, "answered 302"),
    ],
)
def test_unusable_judge_reply_is_an_error(
    fields: dict[str, Any], reply: Reply, error_type: ErrorType, message: str
) -> None:
    graded = judged(fields, lambda _: reply)
    assert (graded.reward, graded.error_type) == (None, error_type)
    assert message in str(graded.error)


@pytest.mark.slow
def test_busy_judge_is_retried() -> None:
    replies = [Reply(status=429, headers={"retry-after": "0.1"}), Reply(status=503), completion({"result": 3})]
    assert judged(SCORE, lambda _: replies.pop(0)).reward == 3


def test_missing_judge_error_names_the_setting() -> None:
    graded = grade(adapter.validate_python(SCORE), Sample(output_text="4"), {"truth": "5"})
    assert (graded.error_type, "GROUPTUNE_JUDGE_URL" in str(graded.error)) == (ErrorType.judge_server, True)


def test_judge_token_usage_adds_up() -> None:
    multi = {"type": "multi", "graders": {"a": LABEL, "b": LABEL, "c": SCORE}, "calculate_output": "a + b + 0 * c"}
    scripted = completion({"result": 1})

    def answer(request: Received) -> Reply:
        return completion({"result": "good"}) if b"one of" in request.body else scripted

    graded = judged(multi, answer)
    assert (graded.reward, graded.usage["judge-1"].prompt_tokens) == (2, 90)


def endpoint(url: str, **fields: Any) -> Grader:
    return adapter.validate_python({"type": "endpoint", "url": f"{url}/grade", **fields})


OUTSIDE = ExternalServices(allowed_private_hosts=("127.0.0.1",), signing_secret=SECRET)


def pairs(count: int) -> list[tuple[Sample, dict[str, Any]]]:
    return [(Sample(output_text=str(number)), {"number": number}) for number in range(count)]


def test_reward_requests_are_signed_batches() -> None:
    sizes: list[int] = []

    def answer(request: Received) -> Reply:
        sent = Webhook(SECRET).verify(request.body, dict(request.headers))
        sizes.append(len(sent["samples"]))
        rewards = [answer["item"]["number"] / (1 + int(answer["sample"]["output_text"])) for answer in sent["samples"]]
        return Reply(json.dumps({"results": [{"reward": reward} for reward in rewards]}).encode())

    with http_server(answer) as url, GraderPool(endpoint(url, batch_size=4), OUTSIDE) as pool:
        graded = pool.grade_many(pairs(10))
    assert [grade.reward for grade in graded] == [number / (1 + number) for number in range(10)]
    assert sorted(sizes) == [2, 4, 4]


def test_reward_server_may_fail_single_answers() -> None:
    results = [{"reward": 1}, {"error": "too long"}, {"reward": True}, 3]
    reply = Reply(json.dumps({"results": results}).encode())
    with http_server(lambda _: reply) as url, GraderPool(endpoint(url, batch_size=4), OUTSIDE) as pool:
        graded = pool.grade_many(pairs(4))
    assert [grade.reward for grade in graded] == [1, None, None, None]
    assert "too long" in str(graded[1].error)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(b'{"results": []}'), 'must return {"results"'),
        (Reply(b'{"results": [{"reward": NaN}]}'), "finite number"),
        (Reply(b"no", 400), "answered 400: no"),
        (Reply(b"x" * 5_000_000), "more than"),
    ],
)
def test_invalid_reward_server_reply_is_an_error(reply: Reply, message: str) -> None:
    with http_server(lambda _: reply) as url, GraderPool(endpoint(url), OUTSIDE) as pool:
        [graded] = pool.grade_many(pairs(1))
    assert (graded.reward, message in str(graded.error)) == (None, True), graded.error


def test_private_reward_server_needs_permission() -> None:
    with http_server(lambda _: Reply()) as url, GraderPool(endpoint(url)) as pool:
        [graded] = pool.grade_many(pairs(1))
    assert "GROUPTUNE_ALLOWED_PRIVATE_HOSTS" in str(graded.error)


@pytest.mark.slow
def test_requests_to_slow_servers_overlap() -> None:
    """The server holds 64 requests until all have arrived; sequential requests would never be answered."""
    together = threading.Barrier(64)

    def answer(_request: Received) -> Reply:
        together.wait(120)
        return Reply(b'{"results": [{"reward": 1}]}')

    with http_server(answer) as url, GraderPool(endpoint(url), OUTSIDE) as pool:
        assert [grade.reward for grade in pool.grade_many(pairs(64))] == [1] * 64


def test_close_ends_retries() -> None:
    received = threading.Event()

    def answer(_request: Received) -> Reply:
        received.set()
        return Reply(status=503, headers={"retry-after": "20"})

    with http_server(answer) as url:
        pool = GraderPool(endpoint(url), OUTSIDE)
        [pending] = pool.submit(pairs(1))
        assert received.wait(240)
        pool.close()
        assert pending.result(30)[0].reward is None
