"""Decoding by transformers' own cache, for models that packed rows do not compute."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.worker.serving.adapters import LORAS, peft_model, write_adapter
from tests.worker.serving.test_batch import CPU, KV_BYTES, check_greedy, make_request, run, tokens_of
from tests.worker.training.architectures import LENGTH_DEPENDENT, LONG_FACTORS, PAD, PLAIN, VOCABULARY
from tests.worker.training.conftest import ModelDirectory
from worker.serving.adapters import Adapter, read_adapter
from worker.serving.base import NotPacked, ServedBase
from worker.serving.errors import RequestError
from worker.serving.plain import PlainBase, PlainBatch

PROMPT = (5, 9, 3, 14, 7)
NAMES = ["gemma3n", *(name for name in PLAIN if name != "nemotron-h")]
"""Without Nemotron-H, whose single steps differ by 1e-3 nats from its whole pass in transformers 5.23."""


def make_batch(directory: Path, **options: Any) -> PlainBatch:
    return PlainBatch(PlainBase.load("base", directory, CPU), **{"max_sequences": 6, "kv_bytes": KV_BYTES} | options)


@pytest.mark.parametrize("name", NAMES)
def test_answers_equal_peft(name: str, model_directory: ModelDirectory, tmp_path: Path) -> None:
    base = model_directory(name)
    with pytest.raises(NotPacked):
        ServedBase.load("base", base, CPU)
    one, other = (
        read_adapter(kind, write_adapter(tmp_path / kind, base, LORAS[kind], seed), "base")
        for seed, kind in enumerate(("plain", "rslora"))
    )
    requests = [
        make_request(PROMPT, adapter, max_tokens=6, logprobs=0, n=n) for adapter, n in ((one, 2), (None, 1), (other, 1))
    ]
    found = run(make_batch(base), *requests)
    for request in requests:
        model = peft_model(base, request.adapter.path if request.adapter else None)
        for index in range(request.body.n):
            chunks = [chunk for chunk in found[request] if chunk.index == index]
            own = [chunk.logprobs.logprob for chunk in chunks if chunk.logprobs]
            check_greedy(model, request.body.prompt, tokens_of(chunks, index), own)


@pytest.fixture
def phi2(model_directory: ModelDirectory) -> Path:
    return model_directory("phi2")


def test_prompt_is_scored(phi2: Path) -> None:
    request = make_request(PROMPT, max_tokens=1, prompt_logprobs=2)
    run(make_batch(phi2), request)
    [first, *scored] = request.prompt_logprobs
    assert first is None
    own = [token.logprob for token in scored if token is not None]
    ids = [token.token for token in scored if token is not None]
    assert tuple(ids) == PROMPT[1:]
    with torch.no_grad():
        logprobs = peft_model(phi2, None)(input_ids=torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    assert own == pytest.approx([float(logprobs[place, token]) for place, token in enumerate(ids)], abs=1e-4)


def test_memory_and_places_limit_the_sequences(phi2: Path) -> None:
    base = PlainBase.load("base", phi2, CPU)
    request = make_request(PROMPT, max_tokens=15)
    needed = base.fixed_bytes + 20 * base.bytes_per_token
    with pytest.raises(RequestError, match="20 tokens together, and this machine's memory holds 19"):
        PlainBatch(base, 6, needed - 1).check(request)
    batch = PlainBatch(base, 6, 2 * needed)
    batch.check(request)
    batch.add(make_request(PROMPT, max_tokens=15, n=3))
    assert batch.has_room(request)
    batch.step()
    assert not batch.has_room(request)
    assert not PlainBatch(base, 0, needed).has_room(request)


def test_adapters_are_unloaded(phi2: Path, tmp_path: Path) -> None:
    batch = make_batch(phi2)
    plain = make_request(PROMPT)
    before = tokens_of(run(batch, plain)[plain])
    loaded: list[Adapter] = []
    for seed, kind in enumerate(("plain", "rslora")):
        loaded.append(read_adapter(kind, write_adapter(tmp_path / kind, phi2, LORAS[kind], seed), "base"))
        run(batch, make_request(PROMPT, loaded[-1]))
    for adapter in loaded:
        batch.forget(adapter)
        assert tokens_of(run(batch, plain)[plain]) == before
    request = make_request(PROMPT, loaded[0], logprobs=0)
    again = run(batch, request)[request]
    own = [chunk.logprobs.logprob for chunk in again if chunk.logprobs]
    check_greedy(peft_model(phi2, loaded[0].path), PROMPT, tokens_of(again), own)


def test_adapter_of_another_model_is_refused(phi2: Path, model_directory: ModelDirectory, tmp_path: Path) -> None:
    misfit = read_adapter("misfit", write_adapter(tmp_path / "a", model_directory("llama"), LORAS["plain"]), "base")
    batch = make_batch(phi2)
    with pytest.raises(RequestError, match="does not fit base model 'base'"):
        batch.add(make_request(PROMPT, misfit))
    assert batch.is_empty


@pytest.mark.parametrize("name", list(LENGTH_DEPENDENT))
@pytest.mark.parametrize("length", [LONG_FACTORS - 3, LONG_FACTORS + 3])
def test_long_answer_has_the_frequencies_of_its_length(
    name: str, length: int, model_directory: ModelDirectory, tmp_path: Path
) -> None:
    """An answer that crosses the limit, and one that begins behind it, alongside a short one."""
    base = model_directory(name)
    adapter = read_adapter("a", write_adapter(tmp_path / "a", base, LORAS["plain"]), "base")
    prompt = tuple(3 + 7 * place % (VOCABULARY - 3) for place in range(length))
    requests = [make_request(ids, adapter, max_tokens=8, logprobs=0) for ids in (prompt, PROMPT)]
    found = run(make_batch(base), *requests)
    model = peft_model(base, adapter.path)
    for request in requests:
        ids = list(request.body.prompt)
        for chunk in found[request]:
            fresh = copy.deepcopy(model)  # `dynamic` keeps the frequencies of the longest sequence
            with torch.no_grad():
                logprobs = fresh(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
            assert chunk.logprobs is not None
            assert float(logprobs.max()) == pytest.approx(chunk.logprobs.logprob, abs=2e-4)
            assert chunk.token_ids == (int(logprobs.argmax()),)
            ids += chunk.token_ids
    if name == "phi3-long":
        own = generated(base, adapter.path, prompt, 8)
        assert tokens_of(found[requests[0]]) == own


def generated(base: Path, adapter: Path, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the greedy answer of transformers."""
    ids = torch.tensor([prompt])
    config = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=PAD)
    model = peft_model(base, adapter)
    output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return tuple(output[0, len(prompt) :].tolist())
