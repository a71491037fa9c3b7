"""Sequences of different adapters in one batch against transformers and PEFT, one sequence at a time."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from app.core.spec.job import Sampling
from tests.tiny_model import character_tokenizer
from tests.worker.serving.adapters import LORAS, peft_model, write_adapter
from tests.worker.training import plain
from tests.worker.training.architectures import ARCHITECTURES, END, PAD, VOCABULARY, build
from tests.worker.training.conftest import ModelDirectory
from worker.serving.adapters import Adapter, read_adapter
from worker.serving.base import ServedBase
from worker.serving.batch import Batch
from worker.serving.constraints import _TextTokenizer
from worker.serving.errors import RequestError
from worker.serving.plain import PlainBatch
from worker.serving.sequences import Chunk, Request
from worker.serving.wire import CompletionBody
from worker.training.model import load_policy
from worker.training.rollouts.sampler import Sampler

CPU = torch.device("cpu")
KV_BYTES = 10**7


def make_request(prompt: Any, adapter: Adapter | None = None, **options: Any) -> Request:
    body = CompletionBody(model="m", prompt=tuple(prompt), **{"temperature": 0.0, "max_tokens": 8, **options})
    return Request(body, "base", character_tokenizer(), lambda _event: None, adapter)


def make_batch(directory: Path, **options: Any) -> Batch:
    return Batch(ServedBase.load("base", directory, CPU), **{"max_sequences": 6, "kv_bytes": KV_BYTES} | options)


def run(batch: Batch | PlainBatch, *requests: Request) -> dict[Request, list[Chunk]]:
    """Return the chunks of all requests, which start together."""
    for request in requests:
        batch.add(request)
    found: dict[Request, list[Chunk]] = defaultdict(list)
    while not batch.is_empty:
        for request, event in batch.step():
            assert isinstance(event, Chunk)
            found[request].append(event)
    return found


def tokens_of(chunks: list[Chunk], index: int = 0) -> tuple[int, ...]:
    return tuple(token for chunk in chunks if chunk.index == index for token in chunk.token_ids)


@pytest.fixture
def adapters(architecture: str, model_directory: ModelDirectory, tmp_path: Path) -> list[Adapter | None]:
    base = model_directory(architecture)
    names = list(LORAS) if architecture != "gpt2" else ["plain", "rslora"]
    written = [
        read_adapter(name, write_adapter(tmp_path / name, base, LORAS[name], seed), "base")
        for seed, name in enumerate(names)
    ]
    return [None, *(adapter for adapter in written if not adapter.is_plain)]  # `test_plain` has those on experts


@pytest.fixture(params=[name for name in ARCHITECTURES if name != "gemma3n"])  # trained only
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


LLAMA_FORM = {"llama", "qwen2", "qwen2-half-sliding", "qwen3", "mistral"}


def test_layers_of_llamas_form_are_replaced(architecture: str, model_directory: ModelDirectory) -> None:
    """Layers with other norms, multipliers or parallel parts keep transformers' own forward."""
    base = ServedBase.load("base", model_directory(architecture), CPU)
    assert base.short_layers == (2 if architecture in LLAMA_FORM else 0)


def test_mixed_batches_equal_peft(
    architecture: str, adapters: list[Adapter | None], model_directory: ModelDirectory
) -> None:
    """Sequences of all adapters join and leave at random; prompts are prefilled in parts of up to 7 tokens."""
    choices = random.Random(3)  # noqa: S311
    batch = make_batch(model_directory(architecture), prefill_tokens=7)
    waiting = [
        make_request(
            [choices.randrange(3, VOCABULARY) for _ in range(choices.randint(1, 20))],
            choices.choice(adapters),
            max_tokens=choices.randint(1, 20),
            n=choices.choice([1, 1, 2]),
            logprobs=0,
        )
        for _ in range(16)
    ]
    found: dict[Request, list[Chunk]] = defaultdict(list)
    while waiting or not batch.is_empty:
        while waiting and batch.has_room(waiting[-1]) and choices.random() < 0.5:
            batch.add(waiting.pop())
        for request, event in batch.step():
            assert isinstance(event, Chunk)
            found[request].append(event)
    assert len(found) == 16
    models = {each: peft_model(model_directory(architecture), each.path if each else None) for each in adapters}
    for request, chunks in found.items():
        for index in range(request.body.n):
            tokens = tokens_of(chunks, index)
            assert len(tokens) == request.body.max_tokens
            own = [chunk.logprobs.logprob for chunk in chunks if chunk.index == index and chunk.logprobs]
            check_greedy(models[request.adapter], request.body.prompt, tokens, own)


@torch.no_grad()
def check_greedy(model: Any, prompt: tuple[int, ...], tokens: tuple[int, ...], logprobs: list[float]) -> None:
    """Check that each token is the model's most probable one, with this log-probability."""
    whole = torch.tensor([[*prompt, *tokens]])
    expected = model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    chosen = expected.gather(-1, torch.tensor(tokens)[:, None]).squeeze(-1)
    assert torch.allclose(chosen, torch.tensor(logprobs), atol=2e-4)
    assert torch.allclose(chosen, expected.amax(-1), atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_answers_equal_the_samplers(tmp_path: Path, dtype: torch.dtype) -> None:
    """The evaluation of a job and the served model give the same answers, token by token; in bf16 the same bits."""
    base = build(tmp_path / "base", "llama", dtype)
    directory = write_adapter(tmp_path / "plain", base, LORAS["plain"])
    policy = load_policy(base, LORAS["plain"], seed=0, adapter=directory)
    adapter = read_adapter("plain", directory, "base")
    generator = torch.Generator().manual_seed(4)
    prompts = [
        tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()) for length in (1, 4, 9, 30, 47)
    ]
    expected = Sampler(policy, (END,), PAD).sample(prompts, 1, Sampling(max_tokens=24), None)
    requests = [make_request(each, adapter, max_tokens=24, stop_token_ids=[END], logprobs=0) for each in prompts]
    found = run(make_batch(base), *requests)
    assert [tokens_of(found[request]) for request in requests] == [row[0].ids for row in expected]
    if dtype == torch.bfloat16:
        scored = [chunk.logprobs.logprob for each in requests for chunk in found[each] if chunk.logprobs]
        assert scored == pytest.approx([each for row in expected for each in row[0].logprobs], abs=1e-5)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bf16 products")
def test_bf16_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """The same bits alone and among others that are longer, shorter and later."""
    batch = make_batch(build(tmp_path / "bf16", "llama", torch.bfloat16), max_sequences=8)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in (9, 30, 31, 47, 20)]

    def logprobs(*together: list[int]) -> list[list[float]]:
        requests = [make_request(prompt, max_tokens=24, logprobs=0) for prompt in together]
        found = run(batch, *requests)
        return [[chunk.logprobs.logprob for chunk in found[each] if chunk.logprobs] for each in requests]

    assert logprobs(*prompts) == [logprobs(prompt)[0] for prompt in prompts]


def test_seed_gives_the_same_text_in_any_batch(model_directory: ModelDirectory) -> None:
    batch = make_batch(model_directory("llama"))

    def sampled(seed: int | None, *others: Request) -> list[tuple[int, ...]]:
        request = make_request((5, 6, 7), temperature=1.0, seed=seed, n=2, max_tokens=12)
        chunks = run(batch, *others, request)[request]
        return [tokens_of(chunks, index) for index in (0, 1)]

    first = sampled(4)
    assert first[0] != first[1]
    assert sampled(4, *(make_request((9,) * size, temperature=1.5) for size in (2, 5))) == first
    assert sampled(5) != first
    assert sampled(None) != sampled(None)


def test_samples_follow_the_distribution(model_directory: ModelDirectory) -> None:
    """First tokens of many samples, against exact probabilities at another temperature, within a nucleus."""
    directory = model_directory("llama")
    request = make_request((5, 6, 7), temperature=1.3, top_p=0.8, seed=1, n=128, max_tokens=1)
    batch = make_batch(directory, max_sequences=128)
    drawn = torch.bincount(
        torch.tensor([chunk.token_ids[0] for chunk in run(batch, request)[request]]), minlength=VOCABULARY
    )
    with torch.no_grad():
        logits = plain.plain_base(directory)(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1]
    ordered, order = (logits / 1.3).softmax(-1).sort(descending=True)
    kept = int((ordered.cumsum(0) - ordered < 0.8).sum())
    assert set(drawn.nonzero().squeeze(1).tolist()) <= set(order[:kept].tolist())
    expected = ordered[:kept] / ordered[:kept].sum() * 128
    assert float(((drawn[order[:kept]] - expected) ** 2 / expected).sum()) < kept + 5 * (2 * kept) ** 0.5


def test_aborted_request_frees_its_slot(model_directory: ModelDirectory) -> None:
    batch = make_batch(model_directory("llama"), max_sequences=1)
    endless, next_one = make_request((5,), max_tokens=60), make_request((6,))
    batch.add(endless)
    batch.step()
    assert not batch.has_room(next_one)
    endless.is_aborted = True
    batch.drop_aborted()
    assert batch.has_room(next_one)
    assert len(tokens_of(run(batch, next_one)[next_one])) == 8


def test_aborted_request_leaves_others_intact(model_directory: ModelDirectory) -> None:
    """The last sequence moves to the slot of the aborted one."""
    directory = model_directory("llama")
    alone = make_request((6, 9))
    expected = tokens_of(run(make_batch(directory), alone)[alone])
    batch = make_batch(directory)
    endless, other = make_request((5,), max_tokens=60), make_request((6, 9))
    batch.add(endless)
    batch.add(other)
    events = [batch.step(), batch.step()]
    endless.is_aborted = True
    batch.drop_aborted()
    events += [batch.step() for _ in iter(lambda: batch.is_empty, True)]
    chunks = [event for step in events for request, event in step if request is other and isinstance(event, Chunk)]
    assert tokens_of(chunks) == expected


def test_prompt_logprobs_equal_the_models(model_directory: ModelDirectory) -> None:
    directory = model_directory("qwen2")
    prompt = (5, 9, 11, 4, 3, 8, 7)
    request = make_request(prompt, prompt_logprobs=2, max_tokens=1)
    run(make_batch(directory, prefill_tokens=3), request)
    expected = plain.sequence_logprobs(plain.plain_base(directory), prompt[:1], prompt[1:])
    first, *rest = request.prompt_logprobs
    assert first is None
    assert [each.logprob for each in rest if each] == pytest.approx(expected.tolist(), abs=1e-4)
    assert all(each is not None and len(each.alternatives) == 2 for each in rest)


def test_failed_constraint_ends_its_request_only(model_directory: ModelDirectory) -> None:
    tokenizer = LLTokenizer(TokenizerWrapper(_TextTokenizer(character_tokenizer(), VOCABULARY)), n_vocab=VOCABULARY)
    broken = LLMatcher(tokenizer, LLMatcher.grammar_from_regex("a"), log_level=0)
    broken.consume_token(20)  # not "a": the matcher is in error from now on, as after a limit
    failing, other = make_request((5, 6)), make_request((7, 8))
    failing.matcher = broken
    batch = make_batch(model_directory("llama"))
    batch.add(failing)
    batch.add(other)
    first = dict(batch.step())
    assert isinstance(first[failing], RequestError)
    assert isinstance(first[other], Chunk)
    batch.drop_aborted()
    assert batch.requests() == {other}
