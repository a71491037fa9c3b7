"""Compares an export in llama.cpp with the unmerged model in transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.export import ExportRefused
from worker.exporting.gguf.llama_cpp import LlamaCpp, Position

ANSWER_TOKENS: Final = 24
_ALTERNATIVES: Final = 32


@dataclass(frozen=True)
class Comparison:
    """Differences between llama.cpp and transformers on the answers that llama.cpp wrote."""

    positions: int
    rms: float
    """Root mean square of the difference of the likeliest tokens' log-probabilities, in nats."""
    relative: float
    """`rms` over the standard deviation of the log-probabilities over the vocabulary."""
    agreement: float
    """Share of positions where both choose the same token."""


def answers(engine: LlamaCpp, prompts: Sequence[Sequence[int]]) -> list[list[Position]]:
    """Return the greedy answers of the export."""
    return [engine.answer(prompt, ANSWER_TOKENS, _ALTERNATIVES) for prompt in prompts]


def compare(model: Any, prompts: Sequence[Sequence[int]], written: Sequence[list[Position]]) -> Comparison:
    """Compare the answers with the log-probabilities that the unmerged model gives to the same tokens."""
    errors: list[Tensor] = []
    spreads: list[Tensor] = []
    same = 0
    for prompt, answer in zip(prompts, written, strict=True):
        expected_T_V = _logprobs(model, [*prompt, *(position.token for position in answer)], len(answer))
        spreads.append(expected_T_V.var(-1, correction=0))
        for position, expected_V in zip(answer, expected_T_V, strict=True):
            ids = torch.tensor(list(position.logprobs), dtype=torch.long)
            errors.append(torch.tensor(list(position.logprobs.values())) - expected_V[ids])
            same += int(expected_V.argmax()) == position.token
    count = sum(map(len, written))
    rms = float(torch.cat(errors).square().mean().sqrt())
    return Comparison(count, rms, rms / float(torch.cat(spreads).mean().sqrt()), same / count)


@torch.no_grad()
def _logprobs(model: Any, ids: list[int], last: int) -> Tensor:
    """Return the log-probabilities [last, V] at the positions that predict the last tokens of `ids`."""
    logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -last - 1 : -1]
    return logits.float().log_softmax(-1)


def compare_tokens(engine: LlamaCpp, tokenizer: ChatTokenizer, texts: Sequence[str]) -> None:
    """Compare the token ids of texts, and a rendered chat. Raises `ExportRefused` at the first difference."""
    question = {"role": "user", "content": texts[0]}
    chat = tokenizer.prompt([question, {"role": "assistant", "content": texts[-1]}, question])
    pairs = [(text, tokenizer.plain_ids(text)) for text in texts]
    for text, expected, special in [*((text, ids, False) for text, ids in pairs), (chat.text, list(chat.ids), True)]:
        found = engine.tokens(text, special=special)
        if found != expected:
            raise ExportRefused(
                "export_unsupported_tokenizer",
                f"llama.cpp reads {text[:60]!r} as the tokens {found[:20]}, the model's own tokenizer as "
                f"{expected[:20]}. Export the model as `merged` instead.",
            )
