"""Runs of evals that sample answers: from the embedded engine, and from an OpenAI-compatible server."""

from pathlib import Path
from typing import Any, Final

import pytest
from openai import OpenAI
from sqlalchemy import select

from app.core.evals import claims
from app.core.inference.tables import InferenceUsage
from app.core.models import aliases
from tests.api.server import Server
from tests.evals import CLOSE, EXACT, MESSAGES, content, create_eval, sums, upload, work
from tests.http_server import Reply
from tests.setup_models import stored_model
from tests.teacher import answer_sums, chat_completion, teacher
from tests.tiny_model import write_rows
from worker.process_control import Drain

UNSTORABLE: Final = chat_completion(
    choices=[
        {
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "tool_calls": [
                    {"id": "\ud800", "type": "function", "function": {"name": "f", "arguments": '{"a": "\ud800"}'}}
                ],
            },
        }
    ],
    usage={"prompt_tokens": 10, "completion_tokens": 2},
)
"""A tool call with halves of surrogate pairs, which Postgres refuses."""
SAMPLING: Any = {"temperature": 0, "max_completion_tokens": 4, "seed": 7}


@pytest.fixture
def client(inference: Server) -> OpenAI:
    return inference.client(strict=True)


def ended(server: Server, client: OpenAI, eval_id: str, **source: Any) -> Any:
    """Create a run, let a worker run it, and return it."""
    body: Any = {"type": "completions", "sampling_params": SAMPLING, "input_messages": MESSAGES} | source
    run = client.evals.runs.create(eval_id, data_source=body)
    assert work(server)
    return client.evals.runs.retrieve(run.id, eval_id=eval_id)


def items(client: OpenAI, run: Any, **filters: Any) -> list[Any]:
    return list(client.evals.runs.output_items.list(run.id, eval_id=run.eval_id, limit=100, **filters))


def test_run_samples_as_the_gateway_answers(inference: Server, client: OpenAI) -> None:
    created = create_eval(client, EXACT, CLOSE)
    source = {"type": "file_id", "id": upload(client, sums(5))}
    run = ended(inference, client, created.id, source=source, model="tiny")
    assert (run.status, run.model, run.result_counts.total, run.result_counts.errored) == ("completed", "tiny", 5, 0)
    found = items(client, run)
    for item, row in zip(found, sums(5), strict=True):
        chat = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": row["item"]["question"]}],
            temperature=0,
            seed=7,
            max_completion_tokens=4,
        )
        assert chat.usage
        sample = item.sample
        assert sample.output[0].content == chat.choices[0].message.content
        assert sample.finish_reason == chat.choices[0].finish_reason
        assert (sample.seed, sample.temperature, sample.max_completion_tokens) == (7, 0, 4)
        assert (sample.usage.prompt_tokens, sample.usage.completion_tokens) == (
            chat.usage.prompt_tokens,
            chat.usage.completion_tokens,
        )
        assert [(message.role, message.content) for message in sample.input] == [("user", row["item"]["question"])]
    [usage] = run.per_model_usage
    assert (usage.run_model_name, usage.invocation_count) == ("tiny", 5)
    assert usage.completion_tokens == sum(item.sample.usage.completion_tokens for item in found)
    with inference.database.reading() as session:
        key_id = inference.api_key.split("_")[2]
        counted = session.scalars(select(InferenceUsage.requests).where(InferenceUsage.key_id == key_id))
        assert sum(counted) >= 5


def test_run_keeps_the_model_of_an_alias(inference: Server, client: OpenAI, tmp_path: Path) -> None:
    """A run that a worker continues after the alias has moved would mix the answers of two models."""
    (tmp_path / "adapter_model.safetensors").touch()
    with inference.database.transaction() as session:
        first, second = (stored_model(session, inference.store, inference.project_id, tmp_path) for _ in range(2))
        aliases.move(session, inference.project_id, "prod", first)
    body: Any = {"type": "completions", "model": "prod", "input_messages": MESSAGES, "source": content(sums(1))}
    run = client.evals.runs.create(create_eval(client).id, data_source=body)
    client.put("/model_aliases/prod", body={"model": second}, cast_to=object)
    with inference.database.reading() as session:
        claim = claims.claim_next(session, 60)
    assert claim is not None
    assert claim.sampler is not None
    assert (claim.run_id, claim.sampler.model, run.model) == (run.id, first, first)


def test_training_rows_are_asked_without_their_answers(inference: Server, client: OpenAI, tmp_path: Any) -> None:
    rows = client.files.create(file=write_rows(tmp_path / "rows.jsonl", 3), purpose="fine-tune")
    inference.validate_files()
    criterion = EXACT | {"reference": "{{item.messages[1].content}}"}
    created = create_eval(client, criterion, schema={"type": "object"})
    source = {"type": "file_id", "id": rows.id}
    run = ended(inference, client, created.id, source=source, model="tiny", input_messages=None)
    assert run.result_counts.total == 3
    assert [len(item.sample.input) for item in items(client, run)] == [1, 1, 1]


def test_other_server_answers_with_the_projects_key(inference: Server, client: OpenAI) -> None:
    def answer(question: str, body: dict[str, Any]) -> Reply:
        if "max_completion_tokens" in body:
            return Reply(b'{"error": {"message": "unknown field max_completion_tokens"}}', status=400)
        if question == "3+3=":
            return Reply(b'{"error": {"message": "filtered"}}', status=403)
        if question == "4+4=":
            return UNSTORABLE
        return chat_completion("-") if question == "2+2=" else answer_sums(question, body)

    created = create_eval(client)
    with teacher(answer) as server:
        client.post("/teacher_keys", body={"base_url": server.url, "api_key": "sk-of-the-project"}, cast_to=object)
        run = ended(inference, client, created.id, source=content(sums(5)), model="gpt", base_url=server.url)
        keys = {request.headers["authorization"] for request in server.requests}
        sent = [body for body in server.bodies if "max_tokens" in body]
    assert keys == {"Bearer sk-of-the-project"}
    assert {(body["model"], body["max_tokens"], body["seed"]) for body in sent} == {("gpt", 4, 7)}
    counts = run.result_counts
    assert (counts.total, counts.passed, counts.failed, counts.errored) == (5, 2, 2, 1)
    [errored] = [item for item in items(client, run) if item.status == "error"]
    assert errored.sample.error.code == "sampler_error"
    assert "403" in errored.sample.error.message
    assert "filtered" in errored.sample.error.message
    [criterion] = run.per_testing_criteria_results
    assert (criterion.passed, criterion.failed, criterion.errored) == (2, 2, 1)
    [usage] = run.per_model_usage
    assert (usage.run_model_name, usage.invocation_count, usage.prompt_tokens) == ("teacher-2026", 4, 40)
    [message] = items(client, run)[-1].sample.output
    assert message.tool_calls == [{"id": "?", "type": "function", "function": {"name": "f", "arguments": '{"a": "?"}'}}]


def test_drained_worker_hands_the_run_back(inference: Server, client: OpenAI) -> None:
    """Rows that were finished before are not asked again; a canceled run stops its worker."""
    drain = Drain()

    def answer(question: str, body: dict[str, Any]) -> Reply:
        if question == "20+20=":
            drain.begin()
        return answer_sums(question, body)

    created = create_eval(client)
    with teacher(answer) as server:
        source: Any = {"type": "completions", "source": content(sums(40)), "model": "gpt", "base_url": server.url}
        run = client.evals.runs.create(created.id, data_source=source | {"input_messages": MESSAGES})
        assert work(inference, drain)
        half = client.evals.runs.retrieve(run.id, eval_id=created.id)
        assert half.status == "queued"
        assert 0 < half.result_counts.total < 40
        done = {item.datasource_item["question"] for item in items(client, half)}
        assert work(inference)
        whole = client.evals.runs.retrieve(run.id, eval_id=created.id)
        assert (whole.status, whole.result_counts.passed, whole.result_counts.total) == ("completed", 40, 40)
        assert {server.questions[question] for question in done} == {1}
