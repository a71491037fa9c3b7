"""The sequences that a sampler decodes as one batch: their keys and values, with padding or without."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from worker.training.batching import shared_length
from worker.training.kv import PREFILL_TOKENS, AttentionProbe, KvSlots, PromptKv, PromptPart, StepKv, Storage
from worker.training.model import Policy


class Rows(Protocol):
    """Sequences that are decoded together."""

    def prefill(self, prompts: Sequence[tuple[int, ...]], count: int) -> Tensor:
        """Returns the hidden state [B, H] of the last token of each prompt; row i belongs to prompt i // count."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all other rows."""
        ...

    def step(self, tokens_B: Tensor) -> Tensor:
        """Appends one token to each row and returns its hidden state [B, H]."""
        ...


class PaddedRows:
    """Rows of one length in transformers' own cache: shared prefix, padding, rest of the prompt, answer."""

    def __init__(self, policy: Policy, pad_id: int) -> None:
        self._policy = policy
        self._pad_id = pad_id

    def prefill(self, prompts: Sequence[tuple[int, ...]], count: int) -> Tensor:
        """Computes the prefix that all prompts share once, and each prompt once for its `count` rows."""
        device = self._policy.device
        cache: Any = DynamicCache(config=self._policy.causal.config)
        # A sliding-window cache evicts by slot, not by position: padding in the middle would evict real tokens.
        shared = 0 if any(cache.is_sliding) else shared_length(prompts)
        if shared:
            prefix_1_S = torch.tensor([prompts[0][:shared]], device=device)
            cache = self._policy.hidden(
                prefix_1_S, torch.ones_like(prefix_1_S), past_key_values=cache, use_cache=True
            ).past_key_values
            cache.batch_repeat_interleave(len(prompts))
        rests = [prompt[shared:] for prompt in prompts]
        width = max(len(rest) for rest in rests)
        ids_B_T = torch.tensor([[self._pad_id] * (width - len(rest)) + list(rest) for rest in rests], device=device)
        attention_B_T = torch.tensor(
            [[1] * shared + [0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device
        )
        output = self._policy.hidden(
            ids_B_T,
            attention_B_T,
            # Positions count real tokens only, so padding does not shift them.
            position_ids=(attention_B_T.cumsum(1) - 1).clamp(min=0)[:, shared:],
            past_key_values=cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        self._cache.batch_repeat_interleave(count)
        self._attention_B_T = attention_B_T.repeat_interleave(count, 0)
        last_B_H: Tensor = output.last_hidden_state[:, -1]
        return last_B_H.repeat_interleave(count, 0)

    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, device=self._policy.device)
        self._cache.batch_select_indices(index)
        self._attention_B_T = self._attention_B_T[index]

    def step(self, tokens_B: Tensor) -> Tensor:
        old_B_T = self._attention_B_T
        self._attention_B_T = torch.cat([old_B_T, old_B_T.new_ones(len(old_B_T), 1)], dim=1)
        output = self._policy.hidden(
            tokens_B.unsqueeze(1),
            self._attention_B_T,
            position_ids=self._positions(),
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden_B_H: Tensor = output.last_hidden_state[:, -1]
        return hidden_B_H

    def _positions(self) -> Tensor:
        """Returns the positions [B, 1] of the last tokens, which padding does not shift."""
        return self._attention_B_T.sum(1, keepdim=True) - 1


class ExactRows:
    """Rows as the embedded inference engine decodes them, so that both give the same bits on a CPU.

    Padding between the tokens of a sequence would change the order in which attention adds up. Greedy answers then
    differ where two tokens are nearly as probable.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        probe = AttentionProbe()
        self._hidden([0, 0], [0, 1], probe)
        shapes = {layer: each.shape for layer, each in probe.layers.items()}
        self._slots = KvSlots(Storage(shapes, policy.head.weight_V_H.dtype, policy.device))
        self._lengths: list[int] = []

    def prefill(self, prompts: Sequence[tuple[int, ...]], count: int) -> Tensor:
        """Computes the prefix that all prompts share once. `count` must be 1."""
        if count != 1:
            raise ValueError("exact rows have one answer per prompt")
        self._slots.reserve(len(prompts), max(map(len, prompts)) + 1, used=0)
        shared = shared_length(prompts)
        prefix = PromptKv(self._slots.storage, len(prompts[0]))
        for tokens in _parts(shared):
            self._extend([(prompts[0], prefix, tokens)])
        last_H: dict[int, Tensor] = {}
        waiting: list[tuple[int, PromptKv, int]] = []

        def compute() -> None:
            hidden = self._extend([(prompts[row], kv, tokens) for row, kv, tokens in waiting])
            for (row, kv, _), hidden_C_H in zip(waiting, hidden, strict=True):
                if kv.length == len(prompts[row]):
                    last_H[row] = hidden_C_H[-1]
                    self._slots.fill(row, kv)
            waiting.clear()

        for row, prompt in enumerate(prompts):
            kv = PromptKv(self._slots.storage, len(prompt))
            kv.copy_from(prefix, shared)
            for tokens in _parts(len(prompt) - shared):
                if sum(each for _, _, each in waiting) + tokens > PREFILL_TOKENS:
                    compute()
                waiting.append((row, kv, tokens))
        compute()
        self._lengths = [len(prompt) for prompt in prompts]
        return torch.stack([last_H[row] for row in range(len(prompts))])

    def _extend(self, parts: Sequence[tuple[Sequence[int], PromptKv, int]]) -> list[Tensor]:
        """Computes the next tokens of prompts in one row; returns the hidden states [C, H] of each part."""
        ids: list[int] = []
        positions: list[int] = []
        places: list[PromptPart] = []
        for prompt, kv, tokens in parts:
            places.append(PromptPart(kv, len(ids), len(ids) + tokens))
            ids += prompt[kv.length : kv.length + tokens]
            positions += range(kv.length, kv.length + tokens)
        none = torch.zeros(0, dtype=torch.long, device=self._policy.device)
        hidden_N_H = self._hidden(ids, positions, StepKv(self._slots, none, 0, tuple(places)))
        for part in places:
            part.kv.length += part.stop - part.start
        return [hidden_N_H[part.start : part.stop] for part in places]

    def keep(self, rows: Sequence[int]) -> None:
        for target, source in enumerate(rows):
            if source != target:
                self._slots.move(source, target, self._lengths[source])
        self._lengths = [self._lengths[row] for row in rows]

    def step(self, tokens_B: Tensor) -> Tensor:
        longest = max(self._lengths)
        self._slots.reserve(len(self._lengths), longest + 1, used=len(self._lengths))
        lengths_B = torch.tensor(self._lengths, device=self._policy.device)
        hidden_B_H = self._hidden(tokens_B.tolist(), self._lengths, StepKv(self._slots, lengths_B, longest, ()))
        self._lengths = [length + 1 for length in self._lengths]
        return hidden_B_H

    def _hidden(self, ids: Sequence[int], positions: Sequence[int], cached: Any) -> Tensor:
        """Returns the hidden states [N, H] of a packed row of tokens."""
        device = self._policy.device
        output = self._policy.hidden(
            torch.tensor([list(ids)], device=device),
            # transformers passes a 4D mask through unchanged. `attend` ignores it and masks by `cached` instead.
            torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            position_ids=torch.tensor([list(positions)], device=device),
            use_cache=False,
            cached=cached,
        )
        hidden_N_H: Tensor = output.last_hidden_state[0]
        return hidden_N_H


def _parts(tokens: int) -> Iterator[int]:
    """Yields the sizes of the parts in which this number of tokens is computed."""
    for start in range(0, tokens, PREFILL_TOKENS):
        yield min(PREFILL_TOKENS, tokens - start)
