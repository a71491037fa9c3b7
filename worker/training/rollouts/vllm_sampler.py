"""The vLLM sampler: the same interface as the in-process sampler, sampling on other GPUs.

The servers load the adapter from files, under a new name for every version: under the same name they would reuse the
KV cache of the previous version. Prompts are dealt out to the servers in turn. Each prompt is a request of its own,
because all prompts of one request share their seed.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from app.core.plurals import plural
from app.core.spec.job import Sampling
from app.core.spec.reports import TrainerExit
from worker.training.export import save_adapter
from worker.training.interfaces import CompletionCallback
from worker.training.model import Policy
from worker.training.rollouts.shared_device import SharedDevice
from worker.training.rollouts.vllm_client import CONCURRENT_REQUESTS, CompletionChoice, VllmClient
from worker.training.types import Completion, JobFailure

NAME_PREFIX: Final = "grouptune-rollout-"
"""Prefix of the names of adapters that runs have loaded. The inference gateway has names of its own."""
_SEEDS: Final = 1 << 53
"""JSON readers that use doubles keep integers below 2^53 exact."""


@contextmanager
def serving(
    policy: Policy,
    end_ids: Collection[int],
    clients: Sequence[VllmClient],
    *,
    base_name: str,
    run_name: str,
    directory: Path,
    device: SharedDevice | None = None,
) -> Iterator["VllmSampler"]:
    """Checks the servers and yields a sampler. Unloads the sampler's adapters at the end of the block.

    `run_name` must be unique over jobs, attempts and ranks. The servers must see `directory` under the same path.
    With `device`, they sleep outside of `awake`.
    Raises `JobFailure` if a server cannot serve this policy.
    """
    with ExitStack() as connections:
        for client in clients:
            _check(policy, connections.enter_context(client), base_name)
        sampler = VllmSampler(
            policy, end_ids, clients, base_name=base_name, run_name=run_name, directory=directory, device=device
        )
        try:
            yield sampler
        finally:
            sampler.unload()


def _check(policy: Policy, client: VllmClient, base_name: str) -> None:
    config: Any = policy.model.peft_config["default"]
    if config.use_dora:
        raise JobFailure(
            TrainerExit.bad_config,
            "rollout_server_unfit",
            "vLLM serves no DoRA adapters: set use_dora to false, or unset GROUPTUNE_ROLLOUT_URL on the worker.",
            "method.hyperparameters.lora.use_dora",
        )
    served = client.models()
    names = [model.id for model in served]
    if base_name not in names:
        raise client.unfit(
            f"it serves {', '.join(names)}, not the job's base model: start it with --served-model-name {base_name}"
        )
    for model in served:  # left by runs that were killed; their files are gone
        if model.id.startswith(NAME_PREFIX) and model.root and not Path(model.root).exists():
            client.unload(model.id)


class VllmSampler:
    """Samples completions from the current policy, whose adapter it loads on the servers; `unload` unloads it.

    Log p is at the sampling temperature. For greedy completions it is at temperature 1, because vLLM has none for them.
    """

    def __init__(
        self,
        policy: Policy,
        end_ids: Collection[int],
        clients: Sequence[VllmClient],
        *,
        base_name: str,
        run_name: str,
        directory: Path,
        device: SharedDevice | None = None,
    ) -> None:
        self.policy = policy
        self.end_ids = frozenset(end_ids)
        self._clients = clients
        self._base_name = base_name
        self._run_name = run_name
        self._directory = directory
        self._device = device
        self._is_awake = device is None
        self._loaded: list[tuple[VllmClient, str]] = []
        self._current = ""
        """The name of the adapter that all servers have loaded since they woke up."""

    @property
    def needs_cores(self) -> bool:
        return False

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Keeps servers on the trainer's devices awake for the block. Raises `JobFailure` and `PeerLost`."""
        if self._device is None:
            yield
            return
        self._device.wake_up()
        self._is_awake = True
        yield
        # No adapter outlives a sleep: not all servers restore adapters (vLLM issue 53888).
        self.unload()
        self._is_awake, self._current = False, ""
        self._device.sleep()

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        count: int,
        sampling: Sampling,
        random: torch.Generator | None,
        on_completion: CompletionCallback | None = None,
    ) -> list[list[Completion]]:
        """Samples `count` completions for each prompt and returns them in order. Decodes greedily without `random`.

        The same state of `random` gives the same seeds. Raises `JobFailure` if a server fails.
        """
        if not self._is_awake:
            raise RuntimeError("a completion was requested outside of `awake`, while the servers sleep")
        if not prompts:
            return []
        model = self._base_name if self.policy.is_base else self._adapter()
        seeds: list[int | None] = [None] * len(prompts)
        if random is not None:
            seeds = torch.randint(_SEEDS, (len(prompts),), generator=random).tolist()

        def complete(index: int) -> list[Completion]:
            client = self._clients[index % len(self._clients)]
            completions = self._complete(client, model, count, sampling, prompts[index], seeds[index])
            if on_completion is not None:
                for number, completion in enumerate(completions):
                    on_completion(index, number, completion)
            return completions

        with ThreadPoolExecutor(min(len(prompts), CONCURRENT_REQUESTS * len(self._clients)), "rollout") as threads:
            return list(threads.map(complete, range(len(prompts))))

    def _adapter(self) -> str:
        """Loads the policy's current adapter on all servers if needed, and returns its name there."""
        version = "start" if self.policy.is_start else f"v{self.policy.version}"
        name = f"{NAME_PREFIX}{self._run_name}-{version}"
        if name != self._current:
            self.unload()
            path = save_adapter(self._directory / name, self.policy, self._base_name)
            # Before the requests: one may succeed even if its response is lost.
            self._loaded = [held for held in self._loaded if held[1] != name]
            self._loaded += [(client, name) for client in self._clients]
            with ThreadPoolExecutor(len(self._clients), "adapter") as threads:
                list(threads.map(lambda client: client.load(name, str(path)), self._clients))
            self._current = name
        return name

    def unload(self) -> None:
        """Unloads this run's adapters and removes their files. The next call retries what failed."""
        names = {name for _, name in self._loaded}
        self._loaded = [(client, name) for client, name in self._loaded if not client.unload(name)]
        for name in names - {name for _, name in self._loaded}:
            shutil.rmtree(self._directory / name, ignore_errors=True)

    def _complete(
        self,
        client: VllmClient,
        model: str,
        count: int,
        sampling: Sampling,
        prompt: tuple[int, ...],
        seed: int | None,
    ) -> list[Completion]:
        response = client.complete(self._request(model, count, sampling, prompt, seed))
        if response.model != model or len(response.choices) != count:
            raise client.unfit(
                f"requested {plural(count, 'completion')} of {model}, it returned {len(response.choices)} of "
                f"{response.model}"
            )
        choices = sorted(response.choices, key=lambda choice: choice.index)
        return [self._completion(client, choice, prompt, sampling.max_tokens) for choice in choices]

    def _request(
        self, model: str, count: int, sampling: Sampling, prompt: tuple[int, ...], seed: int | None
    ) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": prompt,
            "n": count,
            "max_tokens": sampling.max_tokens,
            "temperature": 0.0 if seed is None else sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
            "logprobs": 0,  # of the sampled token only
            "return_token_ids": True,
            # The tokens at which the in-process sampler ends; vLLM's own list depends on how it was started.
            "stop_token_ids": sorted(self.end_ids),
            "ignore_eos": True,
            # The server takes missing parameters from the model's generation_config.json, so set all of them.
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }

    def _completion(
        self, client: VllmClient, choice: CompletionChoice, prompt: tuple[int, ...], max_tokens: int
    ) -> Completion:
        """Returns the completion with its sampled ids. Raises `JobFailure` if ids or log-probs are incomplete."""
        ids, logprobs = choice.token_ids, choice.logprobs.token_logprobs
        if ids is None:
            raise client.unfit("it returns no token ids; vLLM 0.10.2 or later is required")
        if choice.finish_reason not in ("stop", "length"):
            raise client.away(f"a completion ended with '{choice.finish_reason}'")
        end = next((place for place, token in enumerate(ids) if token in self.end_ids), None)
        finished = end is not None
        is_complete = end == len(ids) - 1 if finished else len(ids) == max_tokens
        if not is_complete or len(logprobs) != len(ids) or choice.prompt_token_ids != list(prompt):
            raise client.unfit(
                f"it ended a completion after {len(ids)} of {max_tokens} tokens, with {len(logprobs)} "
                "log-probabilities, or changed the prompt; start it with --generation-config vllm"
            )
        return Completion(tuple(ids), tuple(logprobs), finished)
