"""The gateway's choice, loading, checks and eviction of adapters on a real vLLM."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.core.inference.engines import Engines
from app.core.inference.errors import AdapterCheckFailed, AdapterRefused, EngineRefused
from app.core.inference.models import ServedModel
from app.core.inference.probe import TOLERANCE, distances
from tests.core.inference.test_engines import Plant, answer, body, check_greedy_copies, failure, unload_all, within
from tests.vllm.server import KEY, MAX_RANK, VllmServer
from tests.waiting import eventually


@pytest.fixture
def plant(tmp_path: Path, vllm_models: Path, vllm_adapters: dict[str, Path]) -> Plant:
    return Plant(tmp_path, vllm_models, vllm_adapters)


def gateway(plant: Plant, vllm: VllmServer, **options: Any) -> Engines:
    return plant.gateway(serve_url=vllm.url, serve_api_key=KEY, **options)


def changed(plant: Plant, name: str, **config: Any) -> ServedModel:
    """Return an adapter whose config differs from the one that its probe was made with."""
    directory = plant.root / f"changed-{name}"
    shutil.copytree(plant.adapters[name], directory)
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return plant.model(name, directory)


def test_log_probs_are_those_of_training(plant: Plant, vllm: VllmServer) -> None:
    async def work(engines: Engines) -> None:
        for name in "abc":
            model = plant.model(name)
            await answer(engines, model)
            assert model.adapter is not None
            stored = plant.probe(name)
            adapter = await engines._name_of(model.adapter)
            found = distances(stored, await engines.all[0].client.prompt_logprobs(adapter, stored.ids))
            assert found.to_adapter < TOLERANCE / 2 < found.of_adapter, found

    within(gateway(plant, vllm), work)


def test_adapters_of_one_batch_differ(plant: Plant, vllm: VllmServer) -> None:
    async def work(engines: Engines) -> None:
        models = [plant.model(name) for name in "ab"] + [plant.model(None)]
        alone = [await answer(engines, model, 16) for model in models]
        assert len(set(alone)) == 3
        assert list(await asyncio.gather(*(answer(engines, model, 16) for model in models))) == alone

    within(gateway(plant, vllm), work)


def test_wrong_scale_fails_the_check(plant: Plant, vllm: VllmServer) -> None:
    alpha = json.loads((plant.adapters["a"] / "adapter_config.json").read_text())["lora_alpha"]

    async def work(engines: Engines) -> None:
        model = changed(plant, "a", lora_alpha=8 * alpha)
        assert isinstance(await failure(engines, model), AdapterCheckFailed)
        assert model.adapter is not None
        assert await engines._name_of(model.adapter) not in vllm.loaded()

    within(gateway(plant, vllm), work)


def test_adapter_that_vllm_ignores_fails_the_check(plant: Plant, vllm: VllmServer) -> None:
    """With weights for layers that the model does not have, vLLM answers with the base model, without an error."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    directory = plant.root / "renamed"
    shutil.copytree(plant.adapters["a"], directory)
    weights = load_file(directory / "adapter_model.safetensors")
    moved = {name.replace(".layers.", ".layers.7"): value for name, value in weights.items()}
    save_file(moved, directory / "adapter_model.safetensors")
    for has_probe in (True, False):
        if not has_probe:
            (directory / "probe.json").unlink()
            config = directory / "adapter_config.json"
            config.write_text(config.read_text() + "\n")  # another content, so another name

        async def work(engines: Engines) -> None:
            error = await failure(engines, plant.model("a", directory))
            assert isinstance(error, AdapterCheckFailed)
            assert "base model" in error.message

        within(gateway(plant, vllm), work)


@pytest.mark.parametrize(
    ("config", "reason"), [({"use_dora": True}, "DoRA"), ({"r": 2 * MAX_RANK}, "rank"), ({"bias": "all"}, "bias")]
)
def test_adapter_that_vllm_cannot_serve(config: dict[str, Any], reason: str, plant: Plant, vllm: VllmServer) -> None:
    error = within(gateway(plant, vllm), lambda engines: failure(engines, changed(plant, "a", **config)))
    assert (type(error), error.code) == (AdapterRefused, "adapter_not_servable")
    assert reason.lower() in error.message.lower()


def test_least_recently_used_adapter_is_unloaded(plant: Plant, vllm: VllmServer) -> None:
    unload_all(vllm)

    async def work(engines: Engines) -> None:
        a, b, c = (plant.model(name) for name in "abc")
        for model in (a, b, a, c, b, a):
            await answer(engines, model)
            assert set(engines.all[0].adapters) == set(vllm.loaded())
        assert len(vllm.loaded()) == 2

    within(gateway(plant, vllm, serve_max_adapters=2), work)


def test_hang_up_frees_the_sequences(plant: Plant, vllm: VllmServer) -> None:
    async def work(engines: Engines) -> None:
        async with engines.stream(plant.model("a"), body(400, n=4, temperature=1.0)) as chunks:
            await anext(chunks)
        await asyncio.to_thread(eventually, vllm.is_idle, 10)

    before = vllm.metric("generation_tokens_total")
    within(gateway(plant, vllm), work)
    assert vllm.metric("generation_tokens_total") - before < 4 * 200


def test_several_greedy_completions_are_equal(plant: Plant, vllm: VllmServer) -> None:
    within(gateway(plant, vllm), lambda engines: check_greedy_copies(engines, plant.model("a")))


def test_bad_request_is_passed_on(plant: Plant, vllm: VllmServer) -> None:
    error = within(gateway(plant, vllm), lambda engines: failure(engines, plant.model(None), max_tokens=100_000))
    assert isinstance(error, EngineRefused)
    assert "100000" in error.message
