"""Decoding by transformers' own forward pass and cache, for base models that `base` cannot compute in packed rows.

Each sequence has a cache of its own and is computed alone, with PEFT's layers. That is right for every causal model
that transformers loads, and slower: sequences take turns, one token each. A sequence whose new length changes the
rotary frequencies of all its tokens is computed again, as transformers' `generate` does.
"""

import copy
import inspect
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor
from transformers import DynamicCache

from worker.serving.adapters import WEIGHTS_NAME, Adapter
from worker.serving.base import PROBE, PROBE_TOLERANCE, load_causal, probe_error, probe_logprobs
from worker.serving.errors import RequestError
from worker.serving.sampling import choose, token_logprobs
from worker.serving.sequences import Event, Request, Sequence
from worker.training.rope import dynamic_embeddings, forget_longest, is_stale

_PROBE_PROMPT: Final = 12
_LOGIT_ROWS: Final = 64
"""Prompt tokens whose fp32 logits exist at a time."""


class State:
    """The tokens of one sequence as the model has seen them, and their cache."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.tokens: tuple[int, ...] = ()
        self.clear()

    def clear(self) -> None:
        """Drop the cache, so that the next pass must compute all tokens."""
        self.cache: Any = DynamicCache(config=self._config.get_text_config(decoder=True))

    def copy(self) -> "State":
        copied = State(self._config)
        copied.tokens, copied.cache = self.tokens, copy.deepcopy(self.cache)
        return copied

    @property
    def bytes(self) -> int:
        tensors = [value for layer in self.cache.layers for value in _tensors(vars(layer).values())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from _tensors(value.values() if isinstance(value, dict) else value)


class PlainBase:
    """One base model on one device, with the adapters that requests use."""

    def __init__(self, name: str, causal: Any, device: torch.device) -> None:
        self.name = name
        self.device = device
        self._causal = causal
        self._peft: PeftModel | None = None
        self._adapters: dict[Adapter, str] = {}
        """Names that PEFT knows the loaded adapters by."""
        self._loaded = 0
        self._current: Adapter | None = None
        self._dynamic = dynamic_embeddings(causal)
        self._selects_logits = "logits_to_keep" in inspect.signature(causal.forward).parameters
        self._verify()
        first, second = self._measured(_PROBE_PROMPT), self._measured(2 * _PROBE_PROMPT)
        self.bytes_per_token = max(1, (second - first) // _PROBE_PROMPT)
        self.fixed_bytes = max(0, first - _PROBE_PROMPT * self.bytes_per_token)
        """States that do not grow with the sequence."""

    @classmethod
    def load(cls, name: str, directory: Path, device: torch.device) -> "PlainBase":
        """Load a base model. Raises `RequestError` if transformers cannot run it with a cache."""
        with torch.inference_mode():
            causal = load_causal(name, directory, device)
            try:
                return cls(name, causal, device)
            except RequestError:
                raise
            except Exception as error:  # an architecture may lack what decoding with a cache needs
                raise _unsupported(name, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error

    def new_state(self) -> State:
        """Return the state of a sequence without tokens."""
        return State(self._causal.config)

    def logits(self, tokens: tuple[int, ...], state: State, *, keep_all: bool = False) -> Tensor:
        """Append tokens to a sequence; returns the logits [1, V] of the last position, or of all new ones [T, V]."""
        cached = len(state.tokens)
        state.tokens += tokens
        if cached and is_stale(self._causal.config, cached, len(state.tokens)):
            state.clear()
            tokens = state.tokens
        forget_longest(self._dynamic)
        options: dict[str, Any] = {"logits_to_keep": 1} if self._selects_logits and not keep_all else {}
        output = self._causal(
            input_ids=torch.tensor([tokens], device=self.device),
            attention_mask=torch.ones(1, len(state.tokens), dtype=torch.long, device=self.device),
            past_key_values=state.cache,
            use_cache=True,
            **options,
        )
        state.cache = output.past_key_values
        logits_T_V: Tensor = output.logits[0]
        return logits_T_V if keep_all else logits_T_V[-1:]

    @contextmanager
    def using(self, adapter: Adapter | None) -> Iterator[None]:
        """Apply an adapter, or none, within the block."""
        if self._peft is None:
            yield
        elif adapter is None:
            with self._peft.disable_adapter():
                yield
        else:
            if adapter is not self._current:
                self._peft.set_adapter(self._adapters[adapter])
                self._current = adapter
            yield

    def bind(self, adapter: Adapter) -> None:
        """Load an adapter. Raises `RequestError` if it does not fit."""
        if adapter in self._adapters:
            return
        self._loaded += 1
        name = f"adapter{self._loaded}"
        with warnings.catch_warnings(action="ignore"):  # about missing weights, which raise below
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self._causal, str(adapter.path), adapter_name=name).eval()
            else:
                self._peft.load_adapter(str(adapter.path), name)
        self._adapters[adapter] = name
        self._current = None
        self._peft.eval()
        with safe_open(adapter.path / WEIGHTS_NAME, framework="pt") as file:
            stored = set(file.keys())
        known = get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
        if unknown := sorted(stored ^ set(known)):
            self.forget(adapter)
            raise RequestError(
                400,
                "unsupported_adapter",
                f"Adapter '{adapter.name}' does not fit base model '{adapter.base}': {unknown[0]} is in only one of "
                "the two.",
                "model",
            )

    def forget(self, adapter: Adapter) -> None:
        """Drop an adapter that is unloaded."""
        name = self._adapters.pop(adapter, None)
        if name is None or self._peft is None:
            return
        self._current = None
        if self._adapters:
            self._peft.set_adapter(next(iter(self._adapters.values())))
            self._peft.delete_adapter(name)
        else:
            self._peft.unload()
            self._peft = None

    def _measured(self, length: int) -> int:
        state = self.new_state()
        self.logits((PROBE * 2)[:length], state)
        return state.bytes

    def _verify(self) -> None:
        """Checks a prompt and single steps with the cache against one pass without it, under eager attention.

        Raises `RequestError` if they differ.
        """
        own = self._causal.config._attn_implementation
        self._causal.set_attn_implementation("eager")
        ids_1_T = torch.tensor([PROBE], device=self.device)
        expected = probe_logprobs(self._causal(input_ids=ids_1_T, use_cache=False).logits[0])
        error = float("nan")
        for attention in (own, "eager"):
            self._causal.set_attn_implementation(attention)
            state = self.new_state()
            parts = [self.logits(PROBE[:_PROBE_PROMPT], state, keep_all=True)]
            parts += [self.logits((token,), state) for token in PROBE[_PROBE_PROMPT:]]
            error = probe_error(probe_logprobs(torch.cat(parts)), expected, self._causal.dtype)
            if error < PROBE_TOLERANCE:
                return
        raise _unsupported(
            self.name, f"its log-probabilities with a cache differ by {error:.2g} nats from those without"
        )


class _Prompt:
    """A request whose sequences have not all started."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.waiting = deque(Sequence(request, index) for index in range(request.body.n))
        self.state: State | None = None
        self.logits_1_V: Tensor | None = None
        """Those that choose the first token, once the prompt is computed."""


class _Running:
    """A sequence that is being decoded, and the logits [1, V] that choose its next token."""

    def __init__(self, sequence: Sequence, state: State, logits_1_V: Tensor) -> None:
        self.sequence = sequence
        self.state = state
        self.logits_1_V: Tensor | None = logits_1_V


class PlainBatch:
    """The sequences that one base model decodes, with the interface of `Batch`."""

    def __init__(self, base: PlainBase, max_sequences: int, kv_bytes: int) -> None:
        self._base = base
        self._max_sequences = max_sequences
        self._bytes = kv_bytes
        self._running: list[_Running] = []
        self._prompts: deque[_Prompt] = deque()

    @property
    def is_empty(self) -> bool:
        return not self._running and not self._prompts

    def check(self, request: Request) -> None:
        """Raise `RequestError` if a request can never run."""
        needed = len(request.body.prompt) + request.body.max_tokens
        if self._needed(needed) > self._bytes:
            most = max(0, self._bytes - self._base.fixed_bytes) // self._base.bytes_per_token
            raise RequestError(
                400,
                "context_length_exceeded",
                f"Prompt and max_tokens are {needed} tokens together, and this machine's memory holds {most}. Lower "
                "max_tokens.",
                "max_tokens",
            )

    def has_room(self, request: Request) -> bool:
        """Return whether another prompt with one sequence can start now."""
        waiting = [prompt.waiting[0].longest for prompt in self._prompts]
        return self._fit([*waiting, len(request.body.prompt) + request.body.max_tokens])

    @torch.inference_mode()
    def add(self, request: Request) -> None:
        """Start a request. Raises `RequestError` if its adapter does not fit the base model."""
        if request.adapter is not None:
            self._base.bind(request.adapter)
        self._prompts.append(_Prompt(request))

    @torch.inference_mode()
    def forget(self, adapter: object) -> None:
        """Free what the base model keeps for an unloaded adapter, unless a request still uses it."""
        if isinstance(adapter, Adapter) and adapter not in {request.adapter for request in self.requests()}:
            self._base.forget(adapter)

    def drop_aborted(self) -> None:
        """Remove the sequences of requests that were aborted."""
        self._running = [each for each in self._running if not each.sequence.request.is_aborted]
        self._prompts = deque(prompt for prompt in self._prompts if not prompt.request.is_aborted)

    def requests(self) -> set[Request]:
        """Return the requests that have not ended."""
        return {each.sequence.request for each in self._running} | {prompt.request for prompt in self._prompts}

    @torch.inference_mode()
    def step(self) -> list[tuple[Request, Event]]:
        """Compute the next prompt and one token of every sequence; returns what their requests receive."""
        prompt = next((prompt for prompt in self._prompts if prompt.state is None), None)
        if prompt is not None:
            self._prefill(prompt)
        self._join()
        events: list[tuple[Request, Event]] = []
        for running in list(self._running):
            event = self._advance(running)
            events.append((running.sequence.request, event))
            if isinstance(event, RequestError) or event.finish_reason is not None:
                self._running.remove(running)
        return events

    def _advance(self, running: _Running) -> Event:
        sequence = running.sequence
        logits_1_V, running.logits_1_V = running.logits_1_V, None
        if logits_1_V is None:
            with self._base.using(sequence.request.adapter):
                logits_1_V = self._base.logits((sequence.last_token,), running.state)
            sequence.length += 1
        [(token, logprobs)] = choose(logits_1_V.float().clone(), [sequence])
        try:
            return sequence.accept(token, logprobs)
        except RequestError as error:
            sequence.request.is_aborted = True  # ends its other sequences before the next step
            return error

    def _prefill(self, prompt: _Prompt) -> None:
        body = prompt.request.body
        wanted = body.prompt_logprobs
        prompt.state = self._base.new_state()
        with self._base.using(prompt.request.adapter):
            logits_T_V = self._base.logits(body.prompt, prompt.state, keep_all=wanted is not None)
        prompt.logits_1_V = logits_T_V[-1:].clone()
        if wanted is None:
            return
        prompt.request.prompt_logprobs.append(None)
        following = body.prompt[1:]
        for first in range(0, len(following), _LOGIT_ROWS):
            tokens = following[first : first + _LOGIT_ROWS]
            logprobs_L_V = logits_T_V[first : first + len(tokens)].float().log_softmax(-1)
            counts = [wanted] * len(tokens)
            prompt.request.prompt_logprobs += token_logprobs(logprobs_L_V, tokens, counts, with_rank=True)

    def _join(self) -> None:
        """Starts sequences of computed prompts while there is room."""
        for prompt in self._prompts:
            while prompt.state is not None and prompt.logits_1_V is not None and prompt.waiting:
                if not self._fit([prompt.waiting[0].longest]):
                    break
                sequence = prompt.waiting.popleft()
                state = prompt.state.copy() if prompt.waiting else prompt.state
                self._running.append(_Running(sequence, state, prompt.logits_1_V))
        self._prompts = deque(prompt for prompt in self._prompts if prompt.waiting)

    def _needed(self, length: int) -> int:
        return self._base.fixed_bytes + length * self._base.bytes_per_token

    def _fit(self, lengths: list[int]) -> bool:
        """Returns whether sequences of these lengths fit alongside the running ones."""
        lengths = [*lengths, *(each.sequence.longest for each in self._running)]
        return len(lengths) <= self._max_sequences and sum(map(self._needed, lengths)) <= self._bytes


def _unsupported(name: str, reason: str) -> RequestError:
    message = f"The embedded engine does not support '{name}' because {reason}. Serve it with vLLM."
    return RequestError(400, "unsupported_architecture", message, "model")
