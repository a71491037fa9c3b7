"""Rollouts by transformers' own `generate`, for architectures on the plain path, or without any cache.

Prompts of the same length form one batch, so there is no padding, which some architectures with recurrent states do not
ignore exactly. Tokens are chosen as in `sampler`, with the same random numbers on every device.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from app.core.spec.job import Sampling
from worker.training.model import Policy
from worker.training.rope import dynamic_embeddings, forget_longest
from worker.training.types import Completion

Choose = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Returns the next tokens [B] and their log p [B] for logits [B, V]."""


class _Chooser(LogitsProcessor):
    """Makes `generate` take the tokens of `choose`, and keeps their log-probabilities."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self.logprobs_B: list[Tensor] = []
        """One tensor for each position."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        chosen_B, logprobs_B = self._choose(scores.float().clone())
        self.logprobs_B.append(logprobs_B)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen_B[:, None], 0.0)


def batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yields the numbers of at most `size` prompts of one length, longest prompts first."""
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(number)
    for _, numbers in sorted(by_length.items(), reverse=True):
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]


@torch.no_grad()
def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    count: int,
    sampling: Sampling,
    choose: Choose,
    end_ids: Collection[int],
    pad_id: int,
) -> list[Completion]:
    """Returns `count` completions of each prompt, prompt by prompt. The prompts must have the same length."""
    ids_B_T = torch.tensor(prompts, device=policy.device).repeat_interleave(count, 0)
    tokens, logprobs = (_with_cache if policy.uses_cache else _without_cache)(
        policy, ids_B_T, sampling.max_tokens, choose, end_ids, pad_id
    )
    return [_completion(row, values, end_ids) for row, values in zip(tokens, logprobs, strict=True)]


def _without_cache(
    policy: Policy, ids_B_T: Tensor, max_tokens: int, choose: Choose, end_ids: Collection[int], _pad_id: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Returns the next tokens of each sequence and their log p, each from a pass over the whole sequence.

    `generate` cannot do this for all architectures: it passes positions that training does not pass.
    """
    dynamic, start = dynamic_embeddings(policy.causal), ids_B_T.shape[1]
    ends_E = torch.tensor(sorted(end_ids), device=policy.device)
    has_ended_B = torch.zeros(len(ids_B_T), dtype=torch.bool, device=policy.device)
    logprobs: list[Tensor] = []
    while len(logprobs) < max_tokens and not bool(has_ended_B.all()):
        forget_longest(dynamic)
        logits_B_V = policy.causal(input_ids=ids_B_T, use_cache=False).logits[:, -1]
        chosen_B, logprobs_B = choose(logits_B_V.float().clone())
        logprobs.append(logprobs_B)
        ids_B_T = torch.cat([ids_B_T, chosen_B[:, None]], 1)
        has_ended_B |= torch.isin(chosen_B, ends_E)
    return ids_B_T[:, start:].tolist(), torch.stack(logprobs, 1).tolist()


def _with_cache(
    policy: Policy, ids_B_T: Tensor, max_tokens: int, choose: Choose, end_ids: Collection[int], pad_id: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Returns the next tokens of each sequence and their log p, by `generate`."""
    chooser = _Chooser(choose)
    config = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=sorted(end_ids) or None,
        pad_token_id=pad_id,
        use_cache=True,
    )
    with _generation_config(policy.causal, config):
        output = policy.causal.generate(
            input_ids=ids_B_T,
            attention_mask=torch.ones_like(ids_B_T),
            generation_config=config,
            logits_processor=[chooser],
            synced_gpus=False,  # a sharded base has its own lockstep
        )
    return output[:, ids_B_T.shape[1] :].tolist(), torch.stack(chooser.logprobs_B, 1).tolist()


@contextmanager
def _generation_config(causal: Any, config: GenerationConfig) -> Iterator[None]:
    """Replaces the model's own defaults, such as a repetition penalty, within the block."""
    own, causal.generation_config = causal.generation_config, config
    try:
        yield
    finally:
        causal.generation_config = own


def _completion(tokens: list[int], logprobs: list[float], end_ids: Collection[int]) -> Completion:
    end = next((place for place, token in enumerate(tokens) if token in end_ids), None)
    length = len(tokens) if end is None else end + 1
    return Completion(tuple(tokens[:length]), tuple(logprobs[:length]), end is not None)
