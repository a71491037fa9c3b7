"""The plain path: log-probabilities by transformers' own forward pass, for architectures that `attention` cannot pack.

Every sequence is computed alone, so there is no padding, and nothing is assumed about the architecture except that it
is causal. A conversation whose turns continue each other is one sequence. Prefixes are not shared otherwise: a group of
K answers computes its prompt K times.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from worker.training.batching import Example
from worker.training.prefix_tree import Node, PrefixTree
from worker.training.rope import dynamic_embeddings, forget_longest


class PlainPath:
    """Log-probabilities of a causal model's own forward pass. Layers save their input only (gradient checkpointing)."""

    def __init__(self, causal: Any, device: torch.device) -> None:
        self._causal = causal
        self._device = device
        self._is_checkpointing = False
        for module in causal.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.forward = partial(self._checkpointed, module.forward)
        self._dynamic = dynamic_embeddings(causal)
        self._selects_logits = "logits_to_keep" in inspect.signature(causal.forward).parameters

    def logprobs(self, sequences: Sequence[Example], temperatures: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Returns log p of each trained token and the entropy of its distribution, both [N], in order of `sequences`.

        `temperatures` are those of the sequences.
        """
        results: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(sequences)
        for ids, numbers in _inputs(sequences):
            places = [(len(sequences[number][0]) - 1, len(sequences[number][1])) for number in numbers]
            index = [place for first, count in places for place in range(first, first + count)]
            tokens = [token for number in numbers for token in sequences[number][1]]
            scale = [temperatures[number] for number in numbers for _ in sequences[number][1]]
            logits_N_V = self._logits(ids, index)
            logprobs_N, entropies_N = checkpoint(  # saves the logits only, not their fp32 copies
                _token_logprobs,
                logits_N_V,
                torch.tensor(tokens, device=self._device),
                torch.tensor(scale, device=self._device),
                use_reentrant=False,
            )
            counts = [count for _, count in places]
            parts = zip(numbers, logprobs_N.split(counts), entropies_N.split(counts), strict=True)
            for number, logprobs, entropies in parts:
                results[number] = logprobs, entropies
        return torch.cat([logprobs for logprobs, _ in results]), torch.cat([entropies for _, entropies in results])

    def _logits(self, ids: Sequence[int], index: Sequence[int]) -> Tensor:
        """Returns the logits [len(index), V] at the positions `index` of one sequence."""
        keep = torch.tensor(index, device=self._device)
        options: dict[str, Any] = {"logits_to_keep": keep} if self._selects_logits else {}
        forget_longest(self._dynamic)
        with self._checkpointing(True):
            output = self._causal(input_ids=torch.tensor([ids], device=self._device), use_cache=False, **options)
        logits_T_V: Tensor = output.logits[0]
        return logits_T_V if self._selects_logits else logits_T_V.index_select(0, keep)

    @contextmanager
    def _checkpointing(self, value: bool) -> Iterator[None]:
        before, self._is_checkpointing = self._is_checkpointing, value
        try:
            yield
        finally:
            self._is_checkpointing = before

    def _checkpointed(self, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Computes a layer. transformers itself checkpoints layers in training mode only, which would turn the base
        model's dropout on in those that apply it themselves (BART's relatives)."""
        if self._is_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._whole, forward, *arguments, use_reentrant=False, **options)
        return forward(*arguments, **options)

    def _whole(self, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Computes a layer without checkpoints of the layers within it (Zamba's).

        The backward pass computes it again outside of `_logits`, and must save the same tensors in the same order.
        """
        with self._checkpointing(False):
            return forward(*arguments, **options)


def _inputs(sequences: Sequence[Example]) -> Iterator[tuple[list[int], list[int]]]:
    """Yields the inputs of each forward pass, and the numbers of the sequences that it contains."""
    tree = PrefixTree()
    nodes = [tree.add(context, ids) for context, ids in sequences]
    numbers: dict[Node, list[int]] = {}
    for number, node in enumerate(nodes):
        while node.children:
            node = node.children[0]
        numbers.setdefault(node, []).append(number)
    for leaf, contained in numbers.items():
        yield [token for node in leaf.path for token in node.ids], contained


def _token_logprobs(logits_N_V: Tensor, tokens_N: Tensor, temperature_N: Tensor) -> tuple[Tensor, Tensor]:
    precision = torch.promote_types(logits_N_V.dtype, torch.float32)
    logprobs_N_V = (logits_N_V.to(precision) / temperature_N[:, None].to(precision)).log_softmax(-1)
    with torch.no_grad():
        entropies_N = -(logprobs_N_V.exp() * logprobs_N_V.nan_to_num(neginf=0.0)).sum(-1)
    return logprobs_N_V.gather(-1, tokens_N[:, None]).squeeze(-1), entropies_N
