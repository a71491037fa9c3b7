"""Chats with the unmodified SDK through the API on a real vLLM."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

from app.core import ids
from app.core.accounts.audit import Actor
from app.core.jobs import lifecycle
from app.core.models.tables import TrainedModel
from app.core.settings import Settings
from tests.api.server import Server, serve, variant
from tests.core.inference.test_engines import unload_all
from tests.setup_jobs import make_job
from tests.vllm.server import KEY, VllmServer
from tests.waiting import eventually

QUESTION: Any = [{"role": "user", "content": "2+2="}]
ENDLESS: Any = {"0": -100, "1": -100, "2": -100, "3": -100}
"""Bias against the special tokens, so that a random model uses all of `max_tokens`."""


@pytest.fixture(scope="module")
def api_settings(api_settings: Settings, vllm: VllmServer, vllm_models: Path) -> Settings:
    return variant(api_settings, models_dir=vllm_models, serve_url=(vllm.url,), serve_api_key=KEY, serve_max_adapters=2)


@pytest.fixture(scope="module")
def api_url(api_settings: Settings) -> Iterator[str]:
    with serve(api_settings) as url:
        yield url


@pytest.fixture
def models(server: Server, vllm_adapters: dict[str, Path]) -> dict[str, str]:
    """Names of the published adapters."""
    return {name: publish(server, directory) for name, directory in vllm_adapters.items()}


def publish(server: Server, directory: Path) -> str:
    with server.database.transaction() as session:
        job = make_job(session, server.project_id)
        lifecycle.cancel(session, Actor(server.project_id), job.id)
        name = ids.fine_tuned_model("tiny", "default", None, job.id)
        blob = f"jobs/{job.id}/a1/adapter"
        server.store.put_tree(blob, directory)
        session.add(TrainedModel(id=name, project_id=server.project_id, job_id=job.id, base_model="tiny", blob=blob))
    return name


def ask(client: OpenAI, model: str, **options: Any) -> Any:
    body: Any = {"temperature": 0, "max_tokens": 16, "messages": QUESTION, "logit_bias": ENDLESS} | options
    return client.chat.completions.create(model=model, **body)


def test_adapters_are_loaded_on_demand(client: OpenAI, models: dict[str, str], vllm: VllmServer) -> None:
    unload_all(vllm)
    answers = {}
    for model in (models["a"], models["b"], "tiny", models["c"]):
        answer = ask(client, model)
        assert (answer.model, answer.usage.completion_tokens) == (model, 16)
        answers[model] = answer.choices[0].message.content
    assert len(set(answers.values())) == 4
    assert len(vllm.loaded()) == 2
    assert ask(client, models["a"]).choices[0].message.content == answers[models["a"]]


def test_stream_adds_up_to_the_answer(client: OpenAI, models: dict[str, str]) -> None:
    whole = ask(client, models["a"], n=2).choices
    chunks = list(ask(client, models["a"], n=2, stream=True, stream_options={"include_usage": True}))
    for choice in whole:
        parts = [each.delta.content or "" for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(parts) == choice.message.content
    assert chunks[-1].usage.completion_tokens == 32


def test_seed_and_logprobs(client: OpenAI, models: dict[str, str]) -> None:
    options = {"temperature": 1.0, "seed": 3, "logprobs": True, "top_logprobs": 3}
    first, again, other = (ask(client, models["a"], **(options | {"seed": seed})) for seed in (3, 3, 4))
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.choices[0].message.content != other.choices[0].message.content
    entries = first.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == first.choices[0].message.content
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in entries)


def test_json_schema_is_obeyed(client: OpenAI, models: dict[str, str]) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "integer", "enum": [4, 5]}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema, "strict": True}}
    answer = ask(client, models["a"], response_format=form, max_tokens=200)  # whitespace is limited
    assert json.loads(answer.choices[0].message.content)["answer"] in (4, 5)


def test_broken_schema_is_refused(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": {"type": "nothing"}, "strict": True}}
    with pytest.raises(APIStatusError) as caught:
        ask(client, "tiny", response_format=form)
    assert (caught.value.status_code, caught.value.body["param"]) == (400, "response_format")  # type: ignore[index]
    assert caught.value.code == "invalid_structured_output"


def test_stop_ends_the_answer(client: OpenAI, models: dict[str, str]) -> None:
    text = ask(client, models["a"]).choices[0].message.content
    answer = ask(client, models["a"], stop=[text[5]])
    assert answer.choices[0].message.content == text[: text.index(text[5])]
    assert answer.choices[0].finish_reason == "stop"


def test_wrong_adapter_is_refused(
    server: Server, client: OpenAI, vllm_adapters: dict[str, Path], tmp_path: Path
) -> None:
    for file in vllm_adapters["a"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 9 * config["lora_alpha"]}))
    with pytest.raises(APIStatusError) as caught:
        ask(client, publish(server, tmp_path))
    assert (caught.value.status_code, caught.value.code) == (500, "adapter_check_failed")


def test_hang_up_frees_the_slot(client: OpenAI, models: dict[str, str], vllm: VllmServer) -> None:
    before = vllm.metric("generation_tokens_total")
    stream = ask(client, models["a"], stream=True, max_tokens=400, temperature=1)
    next(iter(stream))
    stream.close()
    eventually(vllm.is_idle, 10)
    assert vllm.metric("generation_tokens_total") - before < 200
