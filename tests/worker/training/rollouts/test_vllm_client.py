"""Every failure mode of a server, and whether the job fails or waits in the queue."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from app.core.retry import RetryPolicy
from app.core.spec.job import Sampling
from app.core.spec.reports import TrainerExit
from tests.worker.training.rollouts.vllm_server import VllmServer
from worker.training.model import Policy
from worker.training.rollouts.sampler import generator
from worker.training.rollouts.vllm_client import VllmClient
from worker.training.rollouts.vllm_sampler import VllmSampler, serving
from worker.training.types import Completion, JobFailure

WAITS = TrainerExit.dependency_down
FAILS = TrainerExit.bad_config


SOON = RetryPolicy(attempts=3, longest_wait_seconds=0.01)


@pytest.fixture
def server(chat_directory: Path) -> Iterator[VllmServer]:
    with VllmServer(chat_directory) as running:
        yield running


class Rollouts:
    """Requests a few short completions."""

    def __init__(
        self, policy: Policy, directory: Path, retry_policy: RetryPolicy = SOON, timeout_seconds: float = 60.0
    ) -> None:
        self.policy = policy
        self.directory = directory
        self.retry_policy = retry_policy
        self.timeouts: dict[str, Any] = {"answer_seconds": timeout_seconds, "connect_seconds": timeout_seconds}

    def draw(self, url: str, before: Callable[[], object] = lambda: None, key: str | None = None) -> list[Completion]:
        """Two answers to one prompt; `before` is called once the server was found fit."""
        with self.over(url, key) as sampler:
            before()
            return self.sample(sampler)

    def over(self, url: str, key: str | None = None) -> AbstractContextManager[VllmSampler]:
        client = VllmClient(url, key, retry_policy=self.retry_policy, **self.timeouts)
        return serving(self.policy, (2,), [client], base_name="tiny", run_name="job", directory=self.directory)

    def sample(self, sampler: VllmSampler) -> list[Completion]:
        [drawn] = sampler.sample([(1, 50)], 2, Sampling(max_tokens=4), generator(0))
        return drawn

    def failure(self, url: str, before: Callable[[], object] = lambda: None, key: str | None = None) -> JobFailure:
        with pytest.raises(JobFailure) as caught:
            self.draw(url, before, key)
        return caught.value


@pytest.fixture
def rollouts(chat_policy: Policy, tmp_path: Path) -> Rollouts:
    return Rollouts(chat_policy, tmp_path)


def test_transient_failures_are_retried(server: VllmServer, rollouts: Rollouts) -> None:
    expected = rollouts.draw(server.url)
    for status in (429, 502, 503):
        server.answers.extend([(status, "busy")] * 2)  # the tries to load the adapter
        assert rollouts.draw(server.url) == expected
    assert server.adapters == {}


def test_retry_after_is_honoured(server: VllmServer, chat_policy: Policy, tmp_path: Path) -> None:
    rollouts = Rollouts(chat_policy, tmp_path, RetryPolicy(2, longest_wait_seconds=5, first_wait_seconds=0.01))
    server.retry_after = "0.5"
    server.answers.append((429, "busy"))
    begun = time.monotonic()
    rollouts.draw(server.url)
    assert time.monotonic() - begun >= 0.5


def test_stop_flag_ends_the_retries(server: VllmServer) -> None:
    slow = RetryPolicy(3, longest_wait_seconds=60, first_wait_seconds=60)
    server.answers.append((503, "busy"))
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with (
        VllmClient(server.url, None, stop, retry_policy=slow) as client,
        pytest.raises(JobFailure, match="503: busy") as caught,
    ):
        client.complete({})
    assert caught.value.exit_code == WAITS


def test_url_may_end_in_v1(server: VllmServer, rollouts: Rollouts) -> None:
    assert rollouts.draw(f"{server.url}/v1/") == rollouts.draw(server.url)


def test_unreachable_server_is_dependency_down(rollouts: Rollouts) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        failure = rollouts.failure(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (failure.exit_code, failure.code) == (WAITS, "rollout_server_away")
    assert "ConnectError" in str(failure)


def test_busy_server_is_dependency_down(server: VllmServer, rollouts: Rollouts) -> None:
    failure = rollouts.failure(server.url, lambda: server.answers.extend([(503, {"error": {"message": "busy"}})] * 3))
    assert failure.exit_code == WAITS
    assert str(failure).endswith("is unavailable (503: busy)")


def test_silent_server_is_dependency_down(server: VllmServer, chat_policy: Policy, tmp_path: Path) -> None:
    rollouts = Rollouts(chat_policy, tmp_path, timeout_seconds=0.2)
    failure = rollouts.failure(server.url, lambda: setattr(server, "silent", threading.Event()))
    assert failure.exit_code == WAITS
    assert "ReadTimeout" in str(failure)


def test_restarted_server_is_dependency_down(server: VllmServer, rollouts: Rollouts) -> None:
    with rollouts.over(server.url) as sampler:
        rollouts.sample(sampler)
        server.adapters.clear()
        with pytest.raises(JobFailure, match="it has lost the adapter") as caught:
            rollouts.sample(sampler)
    assert caught.value.exit_code == WAITS


def test_lost_load_response_is_no_failure(server: VllmServer, rollouts: Rollouts) -> None:
    """The adapter is loaded, and a second load under its name is rejected."""
    expected = rollouts.draw(server.url)
    assert rollouts.draw(server.url, lambda: setattr(server, "lost", 1)) == expected
    assert server.adapters == {}


@pytest.mark.parametrize(("status", "exit_code"), [(500, FAILS), (503, WAITS)])
def test_rejected_first_adapter_fails_the_job(
    server: VllmServer, rollouts: Rollouts, status: int, exit_code: int
) -> None:
    failure = rollouts.failure(server.url, lambda: server.answers.extend([(status, "no")] * 3))
    assert failure.exit_code == exit_code


def test_too_high_lora_rank_is_reported(server: VllmServer, rollouts: Rollouts) -> None:
    server.max_lora_rank = 1
    failure = rollouts.failure(server.url)
    assert (failure.exit_code, failure.code) == (FAILS, "rollout_server_refused")
    assert "LoRA rank 4 is greater than max_lora_rank 1. Start it with" in str(failure)
    assert "--max-lora-rank" in str(failure)


def test_500_after_a_load_is_transient(server: VllmServer, rollouts: Rollouts) -> None:
    with rollouts.over(server.url) as sampler:
        rollouts.sample(sampler)
        rollouts.policy.version = 1
        server.answers.extend([(200, "unloaded"), *[(500, {"error": {"message": "EngineCore died"}})] * 3])
        with pytest.raises(JobFailure, match="EngineCore died") as caught:
            rollouts.sample(sampler)
    assert caught.value.exit_code == WAITS


def test_server_without_runtime_lora_fails(server: VllmServer, rollouts: Rollouts) -> None:
    server.runtime_lora = False
    failure = rollouts.failure(server.url)
    assert failure.exit_code == FAILS
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in str(failure)


def test_wrong_base_model_is_named(server: VllmServer, rollouts: Rollouts) -> None:
    server.name = "another"
    failure = rollouts.failure(server.url)
    assert (failure.exit_code, failure.code) == (FAILS, "rollout_server_unfit")
    assert "it serves another, not the job's base model: start it with --served-model-name tiny" in str(failure)


def test_wrong_api_key_is_rejected(server: VllmServer, rollouts: Rollouts) -> None:
    server.api_key = "secret"
    assert rollouts.draw(server.url, key="secret")
    failure = rollouts.failure(server.url, key="secret2")
    assert failure.exit_code == FAILS
    assert "401: Unauthorized. Check" in str(failure)
    assert "secret2" not in str(failure)


def test_too_short_context_is_reported(server: VllmServer, rollouts: Rollouts) -> None:
    server.max_model_len = 5
    failure = rollouts.failure(server.url)
    assert failure.exit_code == FAILS
    assert "maximum context length is 5 tokens. Its --max-model-len" in str(failure)


def test_sleeping_server_frees_its_device(server: VllmServer) -> None:
    server.dev_mode = server.sleep_mode = True
    with VllmClient(server.url, None, retry_policy=SOON) as client:
        client.check_can_sleep()
        for _ in range(2):  # the first response is lost
            server.lost = 1
            client.sleep()
            assert not server.awake.is_set()
        client.wake_up()
        assert server.awake.is_set()
    assert server.changes == ["/sleep?level=1"] * 4 + ["/wake_up"]


def test_server_that_cannot_sleep_names_its_flags(server: VllmServer) -> None:
    with VllmClient(server.url, None, retry_policy=SOON) as client:
        with pytest.raises(
            JobFailure, match=r"returned 404: Not Found\. Start it with VLLM_SERVER_DEV_MODE=1"
        ) as caught:
            client.check_can_sleep()
        assert (caught.value.exit_code, caught.value.code) == (FAILS, "rollout_server_refused")
        server.dev_mode = True
        with pytest.raises(JobFailure, match=r"sleep mode is off\. Start it with .* --enable-sleep-mode") as caught:
            client.check_can_sleep()
        assert (caught.value.exit_code, caught.value.code) == (FAILS, "rollout_server_unfit")
    assert server.changes == []


def test_server_that_stays_awake_is_unfit(server: VllmServer) -> None:
    server.answers.append((200, ""))
    server.dev_mode = True
    with VllmClient(server.url, None) as client, pytest.raises(JobFailure, match="it is awake after sleep") as caught:
        client.sleep()
    assert caught.value.code == "rollout_server_unfit"


def test_server_without_token_ids_is_rejected(server: VllmServer, rollouts: Rollouts) -> None:
    server.hidden = ("token_ids", "prompt_token_ids")
    failure = rollouts.failure(server.url)
    assert failure.exit_code == FAILS
    assert "vLLM 0.10.2" in str(failure)


def answer(**changes: Any) -> dict[str, Any]:
    """A valid response to the request of `Rollouts`, with `changes` to its choices."""
    choice = {
        "index": 0,
        "finish_reason": "length",
        "token_ids": [9, 9, 9, 9],
        "prompt_token_ids": [1, 50],
        "logprobs": {"token_logprobs": [-1.0] * 4},
    } | changes
    return {"model": "grouptune-rollout-job-v0", "choices": [choice, choice | {"index": 1}]}


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("<html>", "not vLLM's"),
        ({"choices": []}, "model: Field required"),
        (answer(logprobs=None), "choices.0.logprobs"),
        (answer(logprobs={"token_logprobs": [None] * 4}), "choices.0.logprobs.token_logprobs.0"),
        (answer(logprobs={"token_logprobs": [-1.0] * 3}), "3 log-probabilities"),
        (answer(token_ids=[9, 2, 9, 9]), "after 4 of 4"),
        (answer(token_ids=[9, 9], logprobs={"token_logprobs": [-1.0] * 2}), "after 2 of 4"),
        (answer(token_ids=[], logprobs={"token_logprobs": []}), "after 0 of 4"),
        (answer(prompt_token_ids=[7, 1, 50]), "changed the prompt"),
        (answer() | {"model": "tiny"}, "it returned 2 of tiny"),
        (answer() | {"choices": answer()["choices"][:1]}, "it returned 1 of grouptune-rollout-job-v0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_response_fails_the_job(server: VllmServer, rollouts: Rollouts, broken: object, words: str) -> None:
    loaded = (200, "Success")
    failure = rollouts.failure(server.url, lambda: server.answers.extend([loaded, (200, broken)]))
    assert (failure.exit_code, failure.code) == (FAILS, "rollout_server_unfit")
    assert words in str(failure)


def test_unbroken_response_is_accepted(server: VllmServer, rollouts: Rollouts) -> None:
    drawn = rollouts.draw(server.url, lambda: server.answers.extend([(200, "Success"), (200, answer())]))
    assert drawn == [Completion((9, 9, 9, 9), (-1.0,) * 4, finished=False)] * 2


def test_aborted_completion_is_dependency_down(server: VllmServer, rollouts: Rollouts) -> None:
    broken = answer(finish_reason="abort")
    failure = rollouts.failure(server.url, lambda: server.answers.extend([(200, "Success"), (200, broken)]))
    assert failure.exit_code == WAITS


@pytest.mark.parametrize(
    "body",
    [{"error": {"message": "words"}}, {"object": "error", "message": "words"}, {"detail": "words"}, {"error": "words"}],
    ids=json.dumps,
)
def test_error_text_is_read_from_every_envelope(server: VllmServer, rollouts: Rollouts, body: object) -> None:
    failure = rollouts.failure(server.url, lambda: server.answers.append((400, body)))
    assert "400: words. Start it with" in str(failure)
