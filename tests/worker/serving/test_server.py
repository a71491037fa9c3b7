"""The engine over HTTP: its dialect, its errors, its queue, and what happens when clients hang up."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import GenerationConfig

from app.core.settings import Settings
from tests import tiny_model
from tests.waiting import eventually
from tests.worker.serving.adapters import LORAS, peft_model, write_adapter
from tests.worker.serving.conftest import LONG_CONTEXT, RunningEngine, running
from tests.worker.serving.test_batch import check_greedy
from tests.worker.training import architectures
from worker.serving.batch import Batch

TOKENIZER = tiny_model.character_tokenizer()
LONG: dict[str, Any] = {"max_tokens": 500}
ENDLESS: dict[str, Any] = {"model": "other", "max_tokens": LONG_CONTEXT - 8, "logit_bias": {"2": -100}}
"""Takes minutes, unless the client hangs up: a long context and no end token."""


def choice(response: Any) -> Any:
    assert response.status_code == 200, response.text
    [found] = response.json()["choices"]
    return found


def refusal(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert error["message"]
    return response.status_code, error["code"], error["param"]


def streamed(engine: RunningEngine, **options: Any) -> list[Any]:
    body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0.0, "stream": True, **options}
    with engine.http.stream("POST", "/v1/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_stream_equals_the_whole_response(engine: RunningEngine) -> None:
    options: dict[str, Any] = {"n": 3, "seed": 7, "temperature": 1.0, "logprobs": 2}
    whole = engine.complete(**options).json()
    chunks = streamed(engine, **options, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 24, "total_tokens": 27}
    parts = [part for chunk in chunks for part in chunk["choices"]]
    for expected in whole["choices"]:
        own = [part for part in parts if part["index"] == expected["index"]]
        assert "".join(part["text"] for part in own) == expected["text"] == TOKENIZER.decode(expected["token_ids"])
        assert [token for part in own for token in part["token_ids"]] == expected["token_ids"]
        assert [part["finish_reason"] for part in own] == [None] * 7 + ["length"]
        assert own[0]["prompt_token_ids"] == expected["prompt_token_ids"] == [5, 6, 7]
        for key in ("tokens", "token_logprobs", "top_logprobs"):
            assert [value for part in own for value in part["logprobs"][key]] == expected["logprobs"][key]


def test_stop_string_ends_the_text(engine: RunningEngine) -> None:
    free = choice(engine.complete(**LONG, temperature=1.0, seed=1))
    stop = free["text"][20:23]
    ended = choice(engine.complete(**LONG, temperature=1.0, seed=1, stop=[stop, "never in it"]))
    end = free["text"].index(stop)
    assert (ended["text"], ended["finish_reason"], ended["stop_reason"]) == (free["text"][:end], "stop", stop)
    assert ended["token_ids"] == free["token_ids"][: end + 3]


def test_stop_token_is_in_the_ids_only(engine: RunningEngine) -> None:
    free = choice(engine.complete(temperature=1.0, seed=1, **LONG))
    token = free["token_ids"][20]
    ended = choice(engine.complete(temperature=1.0, seed=1, stop_token_ids=[token], **LONG))
    end = free["token_ids"].index(token)
    assert (ended["token_ids"], ended["stop_reason"]) == (free["token_ids"][: end + 1], token)
    assert ended["text"] == TOKENIZER.decode(free["token_ids"][:end])


def test_bias_and_penalties_move_the_choice(engine: RunningEngine) -> None:
    assert choice(engine.complete(logit_bias={"9": 100}))["token_ids"] == [9] * 8
    penalised = choice(engine.complete(logit_bias={"9": 40, "10": 39.5}, frequency_penalty=1.0))["token_ids"]
    assert penalised[:4] == [9, 10, 9, 10]
    once = choice(engine.complete(logit_bias={"9": 40, "10": 39}, presence_penalty=2.0))["token_ids"]
    assert once == [9, 10, *[9] * 6]


def test_logprobs_are_the_models_own(engine: RunningEngine) -> None:
    """Neither temperature nor bias changes them."""
    plain = choice(engine.complete(logprobs=5))["logprobs"]
    first = plain["tokens"][0]
    assert max(plain["top_logprobs"][0].values()) == plain["token_logprobs"][0]
    token = int(first.removeprefix("token_id:"))
    bent = choice(engine.complete(logprobs=5, temperature=2.0, seed=1, logit_bias={str(token): 100}))["logprobs"]
    assert bent["token_logprobs"][0] == pytest.approx(plain["token_logprobs"][0], abs=1e-4)


@pytest.mark.parametrize(
    ("wanted", "check"),
    [
        ({"regex": "[0-3]{2}-[x-z]"}, lambda text: text[0] in "0123" and text[2] == "-" and len(text) == 4),
        ({"json": {"enum": ["yes", "no"]}}, lambda text: json.loads(text) in ("yes", "no")),
        ({"grammar": 'start: "a" | "bc"'}, lambda text: text in ("a", "bc")),
    ],
)
def test_constraint_holds(engine: RunningEngine, wanted: Any, check: Callable[[str], bool]) -> None:
    """The random model would write something else."""
    for seed in range(3):
        found = choice(engine.complete(structured_outputs=wanted, temperature=1.0, seed=seed, max_tokens=40))
        assert found["finish_reason"] == "stop"
        assert check(found["text"]), found["text"]


def test_constraint_allows_the_stop_token_at_its_end(engine: RunningEngine) -> None:
    found = choice(engine.complete(structured_outputs={"regex": "a+"}, stop_token_ids=[2], logit_bias={"2": 50}))
    assert (found["text"], found["stop_reason"]) == ("a", 2)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "absent"}, (404, "model_not_found", "model")),
        ({"prompt": []}, (400, "invalid_value", "prompt")),
        ({"prompt": [999]}, (400, "invalid_value", "prompt")),
        ({"prompt": "text"}, (400, "invalid_value", "prompt")),
        ({"max_tokens": 600}, (400, "context_length_exceeded", "max_tokens")),
        ({"temperature": -1}, (400, "invalid_value", "temperature")),
        ({"top_k": 5}, (400, "invalid_value", "top_k")),
        ({"unheard_of": 1}, (400, "invalid_value", "unheard_of")),
        ({"logit_bias": {"999": 1}}, (400, "invalid_value", "logit_bias")),
        ({"structured_outputs": {"json": {"type": "x"}}}, (400, "invalid_structured_output", "structured_outputs")),
        ({"structured_outputs": {"regex": "("}}, (400, "invalid_structured_output", "structured_outputs")),
        ({"structured_outputs": {}}, (400, "invalid_value", "structured_outputs")),
    ],
    ids=str,
)
def test_bad_request_is_refused(engine: RunningEngine, change: Any, expected: Any) -> None:
    assert refusal(engine.complete(**change)) == expected


def test_body_without_json_is_refused(engine: RunningEngine) -> None:
    assert refusal(engine.http.post("/v1/completions", content=b"{"))[:2] == (400, "invalid_value")


def test_adapters_load_and_unload(engine: RunningEngine, serving_dirs: Path) -> None:
    base = choice(engine.complete())["token_ids"]
    texts = set()
    for name in LORAS:
        for _ in range(2):  # loading a loaded adapter changes nothing
            assert engine.load(name, serving_dirs / "serving" / "adapters" / name).status_code == 200
        texts.add(tuple(choice(engine.complete(name))["token_ids"]))
    assert len(texts - {tuple(base)}) == len(LORAS)
    models = {entry["id"]: entry["parent"] for entry in engine.http.get("/v1/models").json()["data"]}
    assert models == {"tiny": None, "other": None} | dict.fromkeys(LORAS, "tiny")
    for name in LORAS:
        assert engine.http.post("/v1/unload_lora_adapter", json={"lora_name": name}).status_code == 200
        assert refusal(engine.complete(name)) == (404, "model_not_found", "model")
    assert refusal(engine.http.post("/v1/unload_lora_adapter", json={"lora_name": "dora"}))[0] == 404
    assert choice(engine.complete())["token_ids"] == base


def test_paths_outside_are_refused(engine: RunningEngine, serving_dirs: Path, tmp_path: Path) -> None:
    adapters = serving_dirs / "serving" / "adapters"
    shutil.copytree(adapters / "plain", tmp_path / "plain")
    (adapters / "link").symlink_to(tmp_path / "plain")
    for path in (tmp_path / "plain", adapters / ".." / ".." / "models" / "tiny", adapters / "link"):
        assert refusal(engine.load("x", path)) == (400, "path_not_allowed", "lora_path")
    assert refusal(engine.load("x", adapters / "absent")) == (404, "adapter_not_found", "lora_path")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
        ({"r": 3}, "rank"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow"),
    ],
)
def test_unusual_adapter_is_refused(
    engine: RunningEngine, serving_dirs: Path, request: pytest.FixtureRequest, change: Any, part: str
) -> None:
    directory = serving_dirs / "serving" / "adapters" / f"bad-{part}"
    shutil.copytree(serving_dirs / "serving" / "adapters" / "plain", directory)
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    response = engine.load("bad", directory)
    assert refusal(response) == (400, "unsupported_adapter", "lora_path")
    assert part in response.json()["error"]["message"]


def test_adapter_of_another_base_is_refused(
    engine: RunningEngine, serving_dirs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = serving_dirs / "models" / "wide"
    tiny_model.build(path, hidden=64)
    assert engine.load("misfit", serving_dirs / "serving" / "adapters" / "plain", "wide").status_code == 200
    assert refusal(engine.complete("misfit")) == (400, "unsupported_adapter", "model")
    assert choice(engine.complete())["token_ids"]
    shutil.rmtree(path)


def test_plain_base_and_adapter_of_experts_are_served(
    engine: RunningEngine, serving_dirs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A base model that packed rows cannot compute, and an adapter on the parameters of its experts."""
    path = serving_dirs / "models" / "hybrid"
    tiny_model.build(path)
    for name in ("config.json", "model.safetensors"):
        (path / name).unlink()
    architectures.build(path, "qwen3-next")
    adapter = write_adapter(serving_dirs / "serving" / "adapters" / "experts", path, LORAS["plain"])
    assert json.loads((adapter / "adapter_config.json").read_text())["target_parameters"]
    assert engine.load("experts", adapter, "hybrid").status_code == 200
    answers = {name: choice(engine.complete(name, logprobs=0)) for name in ("hybrid", "experts", "tiny")}
    for name, directory in (("hybrid", None), ("experts", adapter)):
        own = answers[name]["logprobs"]["token_logprobs"]
        check_greedy(peft_model(path, directory), (5, 6, 7), answers[name]["token_ids"], own)
    shutil.rmtree(path)


def test_long_request_takes_the_plain_path(engine: RunningEngine, serving_dirs: Path) -> None:
    """Beyond a length, one sequence changes the position embeddings of all others in its pass."""
    path = serving_dirs / "models" / "long"
    tiny_model.build(path)
    for name in ("config.json", "model.safetensors"):
        (path / name).unlink()
    architectures.build(path, "phi3-long")
    model = peft_model(path, None)
    for length, is_plain in ((3, False), (architectures.LONG_FACTORS - 4, True)):
        ids = [3 + place % 20 for place in range(length)]
        answer = choice(engine.complete("long", prompt=ids, logprobs=0))["token_ids"]
        assert engine.server.engine._is_plain is is_plain
        inputs = torch.tensor([ids])
        config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0)
        own = model.generate(input_ids=inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
        assert answer == own[0, length:].tolist()
    shutil.rmtree(path)


def test_bases_take_turns(engine: RunningEngine) -> None:
    """Both get answers, though only one is in memory at a time."""
    expected = {name: choice(engine.complete(name))["token_ids"] for name in ("tiny", "other")}
    assert expected["tiny"] != expected["other"]
    answers: list[tuple[str, Any]] = []

    def ask(name: str) -> None:
        with httpx.Client(base_url=engine.url, timeout=60, trust_env=False) as client:
            body = {"model": name, "prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0.0}
            answers.append((name, choice(client.post("/v1/completions", json=body))["token_ids"]))

    threads = [threading.Thread(target=ask, args=(("tiny", "other")[number % 2],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers
    assert all(tokens == expected[name] for name, tokens in answers)
    assert len(answers) == 6


def test_hang_up_frees_the_slots(engine: RunningEngine) -> None:
    body = {"prompt": [5, 6, 7], "n": 32, "temperature": 1.0, **ENDLESS}
    with engine.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        next(response.iter_lines())
        assert not engine.is_idle
    eventually(lambda: engine.is_idle)
    with httpx.Client(base_url=engine.url, timeout=0.05, trust_env=False) as hasty, pytest.raises(httpx.ReadTimeout):
        hasty.post("/v1/completions", json=body)
    eventually(lambda: engine.is_idle)
    assert choice(engine.complete())["finish_reason"] == "length"


def test_full_queue_answers_429(make_settings: Callable[..., Settings]) -> None:
    with running(make_settings(serve_max_sequences=1, serve_max_queued=2)) as engine:
        body = {"prompt": [5], "stream": True, **ENDLESS}
        with engine.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            waiting = threading.Thread(target=lambda: engine.complete(n=2))
            waiting.start()
            eventually(lambda: bool(engine.server.engine._waiting))
            full = engine.complete()
            assert refusal(full)[:2] == (429, "engine_busy")
            assert int(full.headers["retry-after"]) >= 1
            assert engine.http.get("/health").status_code == 200
        waiting.join()
        assert choice(engine.complete())["token_ids"]


def test_key_is_required(make_settings: Callable[..., Settings]) -> None:
    with running(make_settings(serve_api_key="secret")) as engine:
        assert engine.http.get("/health").status_code == 200
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            response = engine.http.get("/v1/models", headers=header)
            assert refusal(response) == (401, "invalid_api_key", None)
        assert engine.http.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_idle_base_is_unloaded(make_settings: Callable[..., Settings], serving_dirs: Path) -> None:
    with running(make_settings(serve_idle_seconds=0.1, serve_max_adapters=1)) as engine:
        adapters = serving_dirs / "serving" / "adapters"
        engine.load("plain", adapters / "plain")
        first = choice(engine.complete("plain"))["token_ids"]
        eventually(lambda: engine.server.engine._batch is None)
        assert choice(engine.complete("plain"))["token_ids"] == first
        engine.load("dora", adapters / "dora")
        assert refusal(engine.complete("plain"))[0] == 404  # evicted: the engine holds one adapter


def test_failed_engine_reports_and_ends(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    died = threading.Event()

    def fail(_batch: Batch) -> None:
        raise RuntimeError("out of order")

    with running(make_settings(), died.set) as engine:
        monkeypatch.setattr(Batch, "step", fail)
        monkeypatch.setattr(threading, "excepthook", lambda _arguments: None)
        assert refusal(engine.complete())[:2] == (500, "engine_error")
        assert died.wait(60)
