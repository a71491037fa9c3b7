"""Continuous batching: sequences join and leave the batch between steps, and prompts are prefilled in parts.

Each step computes one packed row: the last token of every decoding sequence, and up to `PREFILL_TOKENS` tokens of
prompts. A long prompt therefore delays the running sequences by one part at a time.
"""

from collections import deque
from typing import Final

import torch
from torch import Tensor

from worker.serving.adapters import Adapter
from worker.serving.base import ServedBase
from worker.serving.errors import RequestError
from worker.serving.sampling import choose, token_logprobs
from worker.serving.sequences import Event, Request, Sequence
from worker.training.kv import PREFILL_TOKENS, KvSlots, PromptKv, PromptPart, StepKv

_LOGIT_ROWS: Final = 64
"""Prompt tokens whose logits exist at a time."""


class _Prompt:
    """A prompt that is being prefilled, or whose sequences have not all joined the batch."""

    def __init__(self, request: Request, kv: PromptKv, waiting: list[Sequence]) -> None:
        self.request = request
        self.kv = kv
        self.waiting = waiting
        self.last_H: Tensor | None = None
        """Hidden state of the last token, once the prompt is complete."""

    @property
    def missing(self) -> int:
        return len(self.request.body.prompt) - self.kv.length


class Batch:
    """The sequences that one base model decodes together."""

    def __init__(
        self, base: ServedBase, max_sequences: int, kv_bytes: int, prefill_tokens: int = PREFILL_TOKENS
    ) -> None:
        self._base = base
        self._max_sequences = max_sequences
        self._prefill_tokens = prefill_tokens
        self._max_tokens = kv_bytes // base.storage.bytes_per_token
        self._slots = KvSlots(base.storage)
        self._decoding: list[Sequence] = []
        self._prompts: deque[_Prompt] = deque()

    @property
    def is_empty(self) -> bool:
        return not self._decoding and not self._prompts

    def check(self, request: Request) -> None:
        """Raise `RequestError` if a request can never run."""
        needed = len(request.body.prompt) + request.body.max_tokens
        if needed > self._max_tokens:
            raise RequestError(
                400,
                "context_length_exceeded",
                f"Prompt and max_tokens are {needed} tokens together, and this machine's memory holds "
                f"{self._max_tokens}. Lower max_tokens.",
                "max_tokens",
            )

    def has_room(self, request: Request) -> bool:
        """Return whether another prompt with one sequence can start now."""
        members = [*self._decoding, *(each for prompt in self._prompts for each in prompt.waiting[:1])]
        longest = max([len(request.body.prompt) + request.body.max_tokens, *(each.longest for each in members)])
        count = len(members) + 1
        return count <= self._max_sequences and count * longest <= self._max_tokens

    def add(self, request: Request) -> None:
        """Start a request. Raises `RequestError` if its adapter does not fit the base model."""
        if request.adapter is not None:
            self._base.layers.bind(request.adapter)
        kv = PromptKv(self._base.storage, len(request.body.prompt))
        self._prompts.append(_Prompt(request, kv, [Sequence(request, index) for index in range(request.body.n)]))

    def forget(self, adapter: object) -> None:
        """Free what the base model keeps for an unloaded adapter, unless a request still uses it."""
        if isinstance(adapter, Adapter) and adapter not in {request.adapter for request in self.requests()}:
            self._base.layers.forget(adapter)

    @torch.inference_mode()
    def drop_aborted(self) -> None:
        """Remove the sequences of requests that were aborted."""
        for row in range(len(self._decoding) - 1, -1, -1):
            if self._decoding[row].request.is_aborted:
                self._remove(row)
        self._prompts = deque(prompt for prompt in self._prompts if not prompt.request.is_aborted)

    def requests(self) -> set[Request]:
        """Return the requests that have not ended."""
        return {each.request for each in self._decoding} | {prompt.request for prompt in self._prompts}

    @torch.inference_mode()
    def step(self) -> list[tuple[Request, Event]]:
        """Compute one step; returns what its requests receive."""
        states = self._forward()
        joined = self._join()
        if not self._decoding:
            return []
        hidden_B_H = torch.cat([states, *joined])
        logits_B_V = self._base.head.logits(hidden_B_H, torch.float32)
        events: list[tuple[Request, Event]] = []
        finished = []
        for row, (token, logprobs) in enumerate(choose(logits_B_V, self._decoding)):
            sequence = self._decoding[row]
            try:
                event: Event = sequence.accept(token, logprobs)
            except RequestError as error:
                sequence.request.is_aborted = True  # ends its other sequences before the next step
                event = error
            events.append((sequence.request, event))
            if isinstance(event, RequestError) or event.finish_reason is not None:
                finished.append(row)
        for row in reversed(finished):
            self._remove(row)
        return events

    def _forward(self) -> Tensor:
        """Advances all sequences and prompts; returns the hidden states [B, H] of the decoding sequences."""
        parts = self._parts()
        ids = [sequence.last_token for sequence in self._decoding]
        lengths = [sequence.length for sequence in self._decoding]
        positions = list(lengths)
        rows = [(sequence.request.adapter, 1) for sequence in self._decoding]
        for prompt, part in parts:
            begin, count = prompt.kv.length, part.stop - part.start
            ids += prompt.request.body.prompt[begin : begin + count]
            positions += range(begin, begin + count)
            rows.append((prompt.request.adapter, count))
        decoding = len(lengths)
        if decoding:
            self._slots.reserve(decoding, max(lengths) + 1, used=decoding)
        device = self._base.device
        if not ids:
            return torch.empty(0, self._base.head.weight_V_H.shape[1], dtype=self._base.storage.dtype, device=device)
        self._base.layers.use(rows)
        kv = StepKv(
            self._slots,
            torch.tensor(lengths, dtype=torch.long, device=device),
            max(lengths, default=0),
            tuple(part for _, part in parts),
        )
        hidden_N_H = self._base.hidden(torch.tensor(ids, device=device), torch.tensor(positions, device=device), kv)
        for sequence in self._decoding:
            sequence.length += 1
        for prompt, part in parts:
            self._advance(prompt, hidden_N_H[part.start : part.stop])
        return hidden_N_H[:decoding]

    def _parts(self) -> list[tuple[_Prompt, PromptPart]]:
        """Returns the parts of prompts that this step computes, first come first served."""
        start = len(self._decoding)
        left = self._prefill_tokens
        parts = []
        for prompt in self._prompts:
            count = min(prompt.missing, left)
            if count:
                parts.append((prompt, PromptPart(prompt.kv, start, start + count)))
                start, left = start + count, left - count
        return parts

    def _advance(self, prompt: _Prompt, hidden_C_H: Tensor) -> None:
        """Notes that the next tokens of a prompt are computed."""
        begin = prompt.kv.length
        prompt.kv.length += len(hidden_C_H)
        if not prompt.missing:
            prompt.last_H = hidden_C_H[-1].clone()
        body = prompt.request.body
        if body.prompt_logprobs is None:
            return
        if begin == 0:
            prompt.request.prompt_logprobs.append(None)
        following = list(body.prompt[begin + 1 : prompt.kv.length + 1])
        for first in range(0, len(following), _LOGIT_ROWS):
            tokens = following[first : first + _LOGIT_ROWS]
            logits = self._base.head.logits(hidden_C_H[first : first + len(tokens)], torch.float32)
            prompt.request.prompt_logprobs += token_logprobs(
                logits.log_softmax(-1), tokens, [body.prompt_logprobs] * len(tokens), with_rank=True
            )

    def _join(self) -> list[Tensor]:
        """Gives slots to sequences of complete prompts; returns the hidden states [1, H] that predict their tokens."""
        states = []
        for prompt in self._prompts:
            while prompt.last_H is not None and prompt.waiting and self._fits(prompt.waiting[0]):
                slot = len(self._decoding)
                self._decoding.append(prompt.waiting.pop(0))
                longest = max(sequence.length for sequence in self._decoding)
                self._slots.reserve(slot + 1, longest + 1, used=slot)
                self._slots.fill(slot, prompt.kv)
                states.append(prompt.last_H[None])
        self._prompts = deque(prompt for prompt in self._prompts if prompt.waiting)
        return states

    def _fits(self, sequence: Sequence) -> bool:
        count = len(self._decoding) + 1
        longest = max([sequence.longest, *(each.longest for each in self._decoding)])
        return count <= self._max_sequences and count * longest <= self._max_tokens

    def _remove(self, row: int) -> None:
        """Frees a slot. The last sequence takes its place."""
        last = self._decoding.pop()
        if row < len(self._decoding):
            self._slots.move(len(self._decoding), row, last.length)
            self._decoding[row] = last
        if not self._decoding:
            self._slots.clear()
