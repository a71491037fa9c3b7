"""The gateway over real engines: adapters, checks, eviction, several engines, and engines that die."""

import asyncio
import json
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import pytest

from app.core.errors import GrouptuneError
from app.core.inference.engine_answers import EngineChunk
from app.core.inference.engine_client import LIMITS, TimeLimits
from app.core.inference.engines import Engines
from app.core.inference.errors import (
    AdapterCheckFailed,
    AdapterRefused,
    EngineBusy,
    EngineRefused,
    EngineUnavailable,
    ModelNotServed,
    NoEngine,
)
from app.core.inference.models import ServedModel
from app.core.inference.probe import Probe
from app.core.models import registry
from app.core.prometheus import API
from app.core.storage.local import LocalBlobStore
from tests import tiny_model
from tests.core.inference.adapters import PROMPT, store_adapter, write_adapters
from tests.core.inference.engine_process import KEY, EngineProcess, EngineServer, running, settings_for
from tests.waiting import WAIT_SECONDS

LONG_CONTEXT: Final = 16_384
LONG: Final = LONG_CONTEXT - 100
"""Tokens of an answer that takes minutes, unless the client hangs up."""
T = TypeVar("T")


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory whose base model `tiny` has a long context."""
    directory = tmp_path_factory.mktemp("models")
    tiny_model.build(directory / "tiny", context=LONG_CONTEXT)
    return directory


@pytest.fixture(scope="module")
def adapters(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_adapters(tiny_models / "tiny", tmp_path_factory.mktemp("adapters"), "abc")


@pytest.fixture(scope="module")
def shared(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine that tests may fill with adapters but not stop."""
    with running(tiny_models, tmp_path_factory.mktemp("engine")) as engine:
        yield engine


class Plant:
    """Engines, and a gateway's storage with adapters."""

    def __init__(self, root: Path, models_dir: Path, adapters: dict[str, Path]) -> None:
        self.root, self.models_dir, self.adapters = root, models_dir, adapters
        self.store = LocalBlobStore(root / "storage")
        self._stored = 0

    def gateway(self, *engines: EngineProcess, limits: TimeLimits = LIMITS, **options: Any) -> Engines:
        """`options` are further settings."""
        own = {"serve_dir": (engines[0].state_dir if engines else self.root) / "serving"}
        return Engines(settings_for(self.root, self.models_dir, *engines, **(own | options)), self.store, limits)

    def model(self, name: str | None, directory: Path | None = None) -> ServedModel:
        """Return the base model, or a newly stored copy of an adapter."""
        base = registry.resolve("tiny", self.models_dir)
        if name is None:
            return ServedModel("tiny", base, None)
        self._stored += 1
        adapter = store_adapter(self.store, directory or self.adapters[name], f"{self.root.name}-{self._stored}")
        return ServedModel(adapter.id, base, adapter)

    def probe(self, name: str) -> Probe:
        return Probe.model_validate_json((self.adapters[name] / "probe.json").read_bytes())


@pytest.fixture
def plant(tmp_path: Path, tiny_models: Path, adapters: dict[str, Path]) -> Plant:
    return Plant(tmp_path, tiny_models, adapters)


def body(max_tokens: int = 4, **changes: Any) -> dict[str, Any]:
    """A greedy request, as the gateway's routes make it."""
    return {
        "prompt": list(PROMPT),
        "n": 1,
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": None,
        "stop": [],
        "stop_token_ids": [],
        "ignore_eos": True,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": None,
        "logprobs": None,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "structured_outputs": None,
        "prompt_logprobs": None,
    } | changes


def within(gateway: Engines, work: Callable[[Engines], Awaitable[T]]) -> T:
    """Return the result of `work` with an open gateway."""

    async def run() -> T:
        async with gateway:
            return await work(gateway)

    return asyncio.run(run())


async def answer(gateway: Engines, model: ServedModel, max_tokens: int = 4) -> tuple[int, ...]:
    completion = await gateway.complete(model, body(max_tokens))
    return completion.choices[0].token_ids


async def check_greedy_copies(gateway: Engines, model: ServedModel) -> None:
    """Several greedy completions are equal, streamed or not, and all of their tokens count."""
    completion = await gateway.complete(model, body(8, n=3))
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert len({choice.token_ids for choice in completion.choices}) == 1
    async with gateway.stream(model, body(8, n=3)) as chunks:
        found = [chunk async for chunk in chunks]
    for index, choice in enumerate(completion.choices):
        deltas = [delta for chunk in found for delta in chunk.choices if delta.index == index]
        assert tuple(token for delta in deltas for token in delta.token_ids) == choice.token_ids
    assert found[-1].usage == completion.usage
    assert completion.usage.completion_tokens == 24


def unload_all(engine: EngineServer) -> None:
    """Unload all adapters, as another gateway may do."""
    for name in engine.loaded():
        httpx.post(
            f"{engine.url}/v1/unload_lora_adapter",
            json={"lora_name": name},
            headers={"authorization": f"Bearer {KEY}"},
        ).raise_for_status()


async def exhaust(chunks: AsyncIterator[EngineChunk]) -> None:
    async for _ in chunks:
        pass


async def failure(gateway: Engines, model: ServedModel, **changes: Any) -> GrouptuneError:
    with pytest.raises(GrouptuneError) as caught:
        await gateway.complete(model, body(**changes))
    return caught.value


async def eventually_answers(gateway: Engines, model: ServedModel) -> tuple[int, ...]:
    """Return the answer once the engine is back."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return await answer(gateway, model)
        except EngineUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


def test_adapters_answer_as_in_training(plant: Plant, shared: EngineProcess) -> None:
    async def work(gateway: Engines) -> None:
        models = {name: plant.model(name) for name in "abc"}
        answers = await asyncio.gather(*(answer(gateway, model, 32) for model in models.values()))
        assert dict(zip("abc", answers, strict=True)) == {name: plant.probe(name).completion_ids for name in "abc"}
        assert await answer(gateway, plant.model(None), 32) not in answers

    within(plant.gateway(shared), work)


def test_stream_has_the_same_tokens_and_the_usage(plant: Plant, shared: EngineProcess) -> None:
    async def work(gateway: Engines) -> None:
        async with gateway.stream(plant.model("a"), body(32, logprobs=2)) as chunks:
            found = [chunk async for chunk in chunks]
        deltas = [choice for chunk in found for choice in chunk.choices]
        tokens = [token for delta in deltas for token in delta.token_ids]
        logprobs = [entry for delta in deltas for entry in delta.logprobs or ()]
        stored = plant.probe("a")
        assert tuple(tokens) == stored.completion_ids == tuple(entry.token_id for entry in logprobs)
        assert [entry.logprob for entry in logprobs] == pytest.approx(stored.logprobs, abs=0.05)
        assert all(len(entry.top) >= 2 for entry in logprobs)
        assert (deltas[-1].finish_reason, len(deltas) > 1) == ("length", True)
        assert found[-1].usage is not None
        assert (found[-1].usage.prompt_tokens, found[-1].usage.completion_tokens) == (len(PROMPT), 32)

    within(plant.gateway(shared), work)


def test_first_requests_share_one_load(plant: Plant, shared: EngineProcess) -> None:
    def loads() -> float:
        labels = {"engine": f"127.0.0.1:{shared.port}", "outcome": "ok"}
        return API.get_sample_value("grouptune_adapter_loads_total", labels) or 0.0

    async def work(gateway: Engines) -> None:
        before, model = loads(), plant.model("a")
        await asyncio.gather(*(answer(gateway, model) for _ in range(8)))
        assert loads() == before + 1

    within(plant.gateway(shared), work)


def test_wrong_weights_fail_the_check(plant: Plant, shared: EngineProcess) -> None:
    wrong = plant.root / "wrong"
    shutil.copytree(plant.adapters["a"], wrong)
    config = json.loads((wrong / "adapter_config.json").read_text())
    (wrong / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8 * config["lora_alpha"]}))

    async def work(gateway: Engines) -> None:
        model = plant.model("a", wrong)
        error = await failure(gateway, model)
        assert (type(error), error.status, error.code) == (AdapterCheckFailed, 500, "adapter_check_failed")
        assert "a token (limit" in error.message
        assert await failure(gateway, model) is error  # it is not loaded again at once
        assert await answer(gateway, plant.model("b"), 32) == plant.probe("b").completion_ids

    within(plant.gateway(shared), work)
    assert len(shared.loaded()) == len(set(shared.loaded()))


def test_adapter_without_probe_must_differ_from_base(plant: Plant, shared: EngineProcess) -> None:
    old = plant.root / "old"
    shutil.copytree(plant.adapters["a"], old, ignore=shutil.ignore_patterns("probe.json"))
    zero = write_adapters(plant.models_dir / "tiny", plant.root / "zero", "z", scale=0.0)["z"]
    (zero / "probe.json").unlink()

    async def work(gateway: Engines) -> None:
        assert await answer(gateway, plant.model("a", old), 32) == plant.probe("a").completion_ids
        error = await failure(gateway, plant.model("z", zero))
        assert isinstance(error, AdapterCheckFailed)
        assert "answers with the base model" in error.message

    within(plant.gateway(shared), work)


def test_adapter_that_the_engine_cannot_serve(plant: Plant, shared: EngineProcess) -> None:
    strange = plant.root / "strange"
    shutil.copytree(plant.adapters["a"], strange)
    config = json.loads((strange / "adapter_config.json").read_text()) | {"bias": "all"}
    (strange / "adapter_config.json").write_text(json.dumps(config))
    error = within(plant.gateway(shared), lambda gateway: failure(gateway, plant.model("a", strange)))
    assert (type(error), error.status, error.code) == (AdapterRefused, 400, "adapter_not_servable")
    assert "bias 'all' is not supported" in error.message


def test_least_recently_used_adapter_is_unloaded(plant: Plant, shared: EngineProcess) -> None:
    async def work(gateway: Engines) -> None:
        (engine,) = gateway.all
        a, b, c = (plant.model(name) for name in "abc")
        first, second, third = [await gateway._name_of(model.adapter) for model in (a, b, c) if model.adapter]
        for model in (a, b, a, c):
            await answer(gateway, model)
        assert set(engine.adapters) == {first, third} == set(shared.loaded())
        async with gateway.stream(a, body(LONG)):  # in use, so it stays although it is the older one
            await answer(gateway, c)
            await answer(gateway, b)
            assert set(engine.adapters) == {first, second} == set(shared.loaded())

    unload_all(shared)
    within(plant.gateway(shared, serve_max_adapters=2), work)


def test_adapter_that_another_gateway_unloaded_is_loaded_again(plant: Plant, shared: EngineProcess) -> None:
    async def work(gateway: Engines) -> None:
        model = plant.model("a")
        expected = await answer(gateway, model)
        await asyncio.to_thread(unload_all, shared)
        assert await answer(gateway, model) == expected

    within(plant.gateway(shared), work)


def test_several_greedy_completions_are_equal(plant: Plant, shared: EngineProcess) -> None:
    within(plant.gateway(shared), lambda gateway: check_greedy_copies(gateway, plant.model("a")))


def test_bad_request_is_passed_on(plant: Plant, shared: EngineProcess) -> None:
    error = within(plant.gateway(shared), lambda gateway: failure(gateway, plant.model(None), max_tokens=100_000))
    assert (type(error), error.status, error.code) == (EngineRefused, 400, "context_length_exceeded")


def test_wrong_key_is_explained(plant: Plant, shared: EngineProcess) -> None:
    gateway = plant.gateway(shared, serve_api_key="another")
    error = within(gateway, lambda gateway: failure(gateway, plant.model(None)))
    assert (type(error), error.status) == (EngineUnavailable, 503)
    assert "GROUPTUNE_SERVE_API_KEY" in error.message
    assert "another" not in error.message


def test_no_engine_is_configured(plant: Plant) -> None:
    error = within(plant.gateway(), lambda gateway: failure(gateway, plant.model("a")))
    assert (type(error), error.status, error.code) == (NoEngine, 503, "no_engine")


def test_no_engine_serves_the_base_model(plant: Plant) -> None:
    (plant.root / "models").mkdir()
    with running(plant.root / "models", plant.root / "engine") as engine:
        error = within(plant.gateway(engine), lambda gateway: failure(gateway, plant.model("a")))
        assert (type(error), error.code) == (ModelNotServed, "model_not_served")
        (plant.root / "models" / "tiny").symlink_to(plant.models_dir / "tiny")  # pulled afterwards
        assert within(plant.gateway(engine), lambda gateway: answer(gateway, plant.model("a")))


def test_engine_killed_in_mid_answer(plant: Plant) -> None:
    with running(plant.models_dir, plant.root / "engine") as engine:

        async def work(gateway: Engines) -> None:
            model = plant.model("a")
            expected = await answer(gateway, model)
            async with gateway.stream(model, body(LONG)) as chunks:
                await anext(chunks)
                await asyncio.to_thread(engine.kill)
                with pytest.raises(EngineUnavailable):
                    await exhaust(chunks)
            error = await failure(gateway, model)
            assert (type(error), error.status) == (EngineUnavailable, 503)
            assert error.retry_after_seconds
            assert len(gateway.problems()) == 1
            await asyncio.to_thread(engine.start)
            assert await eventually_answers(gateway, model) == expected
            assert gateway.problems() == []
            # A restart that no poll has noticed: the adapter is loaded again.
            await asyncio.to_thread(engine.kill)
            await asyncio.to_thread(engine.start)
            assert await answer(gateway, model) == expected

        within(plant.gateway(engine), work)


def test_stopped_engine_counts_as_down(plant: Plant) -> None:
    limits = TimeLimits(first_token=1.0, next_token=1.0, load=1.0, poll=0.3)
    with running(plant.models_dir, plant.root / "engine") as engine:

        async def work(gateway: Engines) -> None:
            model = plant.model(None)
            expected = await eventually_answers(gateway, model)
            engine.signal(signal.SIGSTOP)
            assert isinstance(await failure(gateway, model), EngineUnavailable)
            engine.signal(signal.SIGCONT)
            assert await eventually_answers(gateway, model) == expected

        within(plant.gateway(engine, limits=limits), work)


def test_another_engine_takes_over(plant: Plant) -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(running(plant.models_dir, plant.root / "engine")) for _ in range(2)]

        async def work(gateway: Engines) -> None:
            model = plant.model("a")
            expected = await answer(gateway, model)
            for _ in range(3):  # stays where its adapter is
                assert await answer(gateway, model) == expected
            (home,) = [engine for engine in both if engine.loaded()]
            async with gateway.stream(plant.model(None), body(LONG)), gateway.stream(plant.model(None), body(LONG)):
                assert [engine.active for engine in gateway.all] == [1, 1]  # the less busy one each time
            home.kill()
            assert await answer(gateway, model) == expected
            assert all(engine.loaded() for engine in both if engine is not home)

        within(plant.gateway(*both), work)


def test_full_engine_is_busy_until_a_client_hangs_up(plant: Plant) -> None:
    options = {"serve_max_sequences": 1, "serve_max_queued": 1}
    with running(plant.models_dir, plant.root / "engine", **options) as engine:

        async def work(gateway: Engines) -> None:
            model = plant.model(None)
            expected = await answer(gateway, model)
            async with gateway.stream(model, body(LONG)):
                tasks = [asyncio.create_task(answer(gateway, model)) for _ in range(4)]
                done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                errors = [task.exception() for task in done]
                assert all(isinstance(error, EngineBusy) and error.retry_after_seconds for error in errors)
                assert waiting
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {result for result in results if not isinstance(result, EngineBusy)} == {expected}

        within(plant.gateway(engine), work)
