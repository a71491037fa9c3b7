"""The vLLM sampler against the in-process sampler, and the adapters it leaves on the server."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.job import Lora, Sampling
from app.core.spec.reports import TrainerExit
from tests.worker.training import plain
from tests.worker.training.architectures import randomise
from tests.worker.training.rollouts.vllm_server import VllmServer
from worker.training.export import save_adapter
from worker.training.interfaces import RolloutEngine
from worker.training.model import Policy, load_policy
from worker.training.rollouts.sampler import Sampler, generator
from worker.training.rollouts.vllm_client import VllmClient
from worker.training.rollouts.vllm_sampler import VllmSampler, serving
from worker.training.types import Completion, JobFailure

PROMPTS = [(1, 40, 41, 42, 2), (1, 50), (1, 60, 61, 62, 63, 64, 65)]


@pytest.fixture
def server(chat_directory: Path) -> Iterator[VllmServer]:
    with VllmServer(chat_directory) as running:
        yield running


@pytest.fixture
def policy(chat_policy: Policy) -> Policy:
    """With answers that are far from uniform."""
    return randomise(chat_policy, scale=1.0)


def over(*servers: VllmServer, policy: Policy, directory: Path) -> AbstractContextManager[VllmSampler]:
    """A sampler for a block; the tiny tokenizer's end token is 2."""
    clients = [VllmClient(server.url, None) for server in servers]
    return serving(policy, (2,), clients, base_name="tiny", run_name="job-a1-r0", directory=directory)


@pytest.fixture
def sampler(server: VllmServer, policy: Policy, tmp_path: Path) -> Iterator[VllmSampler]:
    with over(server, policy=policy, directory=tmp_path) as entered:
        yield entered


def draw(engine: RolloutEngine, count: int = 4, step: int = 1, **sampling: Any) -> list[list[Completion]]:
    options: dict[str, Any] = {"max_tokens": 12} | sampling
    return engine.sample(PROMPTS, count, Sampling(**options), generator(0, 1, step))


def assert_logprobs(model: Any, drawn: list[list[Completion]], temperature: float = 1.0) -> None:
    """Checks each log p against a plain forward pass over the same ids."""
    with torch.no_grad():
        for prompt, completions in zip(PROMPTS, drawn, strict=True):
            for one in completions:
                expected = plain.sequence_logprobs(model, prompt, one.ids, temperature)
                assert one.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_greedy_equals_the_in_process_sampler(
    sampler: VllmSampler, policy: Policy, chat_tokenizer: ChatTokenizer
) -> None:
    local = Sampler(policy, chat_tokenizer.end_ids, chat_tokenizer.pad_id)
    for scale_seed in (5, 6):  # the second adapter must arrive too
        randomise(policy, seed=scale_seed, scale=1.0)
        policy.version += 1
        expected = local.sample(PROMPTS, 1, Sampling(max_tokens=12), None)
        found = sampler.sample(PROMPTS, 1, Sampling(max_tokens=12), None)
        for [one], [other] in zip(found, expected, strict=True):
            assert (one.ids, one.finished) == (other.ids, other.finished)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_logprobs_use_the_sampling_temperature(
    temperature: float, sampler: VllmSampler, policy: Policy, chat_directory: Path
) -> None:
    model = plain.plain_copy(chat_directory, policy)
    drawn = draw(sampler, temperature=temperature)
    assert [len(completions) for completions in drawn] == [4, 4, 4]
    assert_logprobs(model, drawn, temperature)


def test_samples_depend_on_seed_step_and_prompt(
    sampler: VllmSampler,
) -> None:
    first = draw(sampler)
    torch.manual_seed(99)
    assert draw(sampler) == first
    assert draw(sampler, step=2) != first
    assert all(len({one.ids for one in completions}) > 1 for completions in first)
    one, other = sampler.sample([PROMPTS[0]] * 2, 4, Sampling(max_tokens=12), generator(0))
    assert {completion.ids for completion in one}.isdisjoint(completion.ids for completion in other)


def test_end_token_once_and_none_when_truncated(sampler: VllmSampler) -> None:
    drawn = [one for completions in draw(sampler, count=40, temperature=2.0) for one in completions]
    finished = [one for one in drawn if one.finished]
    truncated = [one for one in drawn if not one.finished]
    assert len(finished) > 5
    assert len(truncated) > 5
    assert all(one.ids.index(2) == len(one.ids) - 1 < 12 for one in finished)
    assert all(2 not in one.ids and len(one.ids) == 12 for one in truncated)
    [short, *_] = draw(sampler, count=1, max_tokens=1)
    assert len(short[0].ids) == len(short[0].logprobs) == 1


def test_request_sets_every_sampling_parameter(sampler: VllmSampler, server: VllmServer) -> None:
    draw(sampler, count=3, temperature=0.7, top_p=0.9)
    sampler.sample(PROMPTS[:1], 1, Sampling(temperature=0.7, max_tokens=5), None)
    *_, greedy = server.requests
    [request] = [one for one in server.requests if one["n"] == 3 and one["prompt"] == list(PROMPTS[1])]
    assert 0 <= request.pop("seed") < 2**53
    assert request == {
        "model": "grouptune-rollout-job-a1-r0-v0",
        "prompt": [1, 50],
        "n": 3,
        "max_tokens": 12,
        "temperature": 0.7,
        "top_p": 0.9,
        "logprobs": 0,
        "return_token_ids": True,
        "stop_token_ids": [2],
        "ignore_eos": True,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    assert (greedy["temperature"], greedy["seed"], greedy["max_tokens"]) == (0.0, None, 5)


def test_new_version_replaces_the_old_adapter(
    sampler: VllmSampler, policy: Policy, server: VllmServer, tmp_path: Path
) -> None:
    assert sampler.sample([], 4, Sampling(), generator(0)) == []
    assert server.names == []
    for version, times in ((0, 2), (1, 1), (5, 1)):
        policy.version = version
        for step in range(times):
            draw(sampler, step=step)
        name = f"grouptune-rollout-job-a1-r0-v{version}"
        assert list(server.adapters) == [path.name for path in tmp_path.iterdir()] == [name]
    assert server.names == [f"grouptune-rollout-job-a1-r0-v{version}" for version in (0, 1, 5)]


def test_base_only_samples_the_base_model(
    sampler: VllmSampler, policy: Policy, server: VllmServer, chat_directory: Path
) -> None:
    with policy.base_only():
        drawn = draw(sampler)
    assert server.names == []
    assert_logprobs(plain.plain_base(chat_directory), drawn)
    draw(sampler)
    assert server.names == ["grouptune-rollout-job-a1-r0-v0"]


def test_starting_adapter_has_a_name_of_its_own(
    sampler: VllmSampler, policy: Policy, server: VllmServer, chat_directory: Path
) -> None:
    policy.keep_start()
    start = plain.plain_copy(chat_directory, policy)
    randomise(policy, seed=31)
    draw(sampler)
    with policy.starting():
        assert_logprobs(start, draw(sampler))
    assert server.names == ["grouptune-rollout-job-a1-r0-v0", "grouptune-rollout-job-a1-r0-start"]


def test_failed_run_unloads_its_adapters(server: VllmServer, policy: Policy, tmp_path: Path) -> None:
    with over(server, policy=policy, directory=tmp_path) as entered:
        draw(entered)
        assert server.adapters
        policy.version = 1
        server.max_model_len = 5
        with pytest.raises(JobFailure, match="context length"):
            draw(entered)
    assert server.adapters == {}
    assert list(tmp_path.iterdir()) == []


def test_adapters_of_killed_runs_are_unloaded(server: VllmServer, policy: Policy, tmp_path: Path) -> None:
    for name in ("grouptune-rollout-killed-v3", "grouptune-rollout-alive-v0", "of-the-operator"):
        server.adapters[name] = str(save_adapter(tmp_path / name, policy, "tiny")), None
    shutil.rmtree(tmp_path / "grouptune-rollout-killed-v3")
    shutil.rmtree(tmp_path / "of-the-operator")
    with over(server, policy=policy, directory=tmp_path):
        assert list(server.adapters) == ["grouptune-rollout-alive-v0", "of-the-operator"]


def test_failed_unload_is_retried_at_the_end(server: VllmServer, policy: Policy, tmp_path: Path) -> None:
    with over(server, policy=policy, directory=tmp_path) as entered:
        draw(entered)
        policy.version = 1
        server.answers.append((500, "busy"))
        draw(entered)
        assert len(server.adapters) == 2
    assert server.adapters == {}


def test_servers_take_turns(server: VllmServer, policy: Policy, chat_directory: Path, tmp_path: Path) -> None:
    with VllmServer(chat_directory) as second:
        with over(server, policy=policy, directory=tmp_path / "one") as alone:
            expected = draw(alone)
        with over(server, second, policy=policy, directory=tmp_path / "two") as both:
            server.requests.clear()
            assert draw(both) == expected
            assert [len(server.requests), len(second.requests)] == [2, 1]
            policy.version = 1
            server.answers.append((500, "busy"))  # one of them keeps the old adapter until the end
            draw(both)
            assert [len(server.adapters), len(second.adapters)] == [2, 1]
        assert server.adapters == second.adapters == {}
        assert list((tmp_path / "two").iterdir()) == []


def test_dora_is_rejected(server: VllmServer, chat_directory: Path, tmp_path: Path) -> None:
    dora = load_policy(chat_directory, Lora(r=4, alpha=8, use_dora=True), seed=0)
    with (
        pytest.raises(JobFailure, match="vLLM serves no DoRA adapters") as caught,
        over(server, policy=dora, directory=tmp_path),
    ):
        pass
    assert caught.value.exit_code == TrainerExit.bad_config
    assert caught.value.param == "method.hyperparameters.lora.use_dora"
