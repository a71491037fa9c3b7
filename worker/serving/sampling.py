"""Chooses the next tokens of a batch of sequences, each with its own settings."""

from collections.abc import Sequence as Rows
from typing import Any

import llguidance.numpy
import torch
from torch import Tensor

from worker.serving.sequences import Sequence, TokenLogprobs
from worker.training.rollouts.sampling import draw, nucleus


def choose(logits_B_V: Tensor, sequences: Rows[Sequence]) -> list[tuple[int, TokenLogprobs | None]]:
    """Returns the next token of each sequence, with its log-probabilities if requested. Modifies the logits.

    Log-probabilities are those of the model itself: at temperature 1, before penalties, biases, constraints and top-p.
    """
    wanted = {row: each for row, each in enumerate(sequences) if each.request.body.logprobs is not None}
    logprobs_L_V = logits_B_V[list(wanted)].log_softmax(-1) if wanted else None
    for row, sequence in enumerate(sequences):
        _adjust(logits_B_V[row], sequence)
    chosen = _sample(logits_B_V, sequences)
    result: list[tuple[int, TokenLogprobs | None]] = [(token, None) for token in chosen]
    if logprobs_L_V is not None:
        counts = [each.request.body.logprobs or 0 for each in wanted.values()]
        found = token_logprobs(logprobs_L_V, [chosen[row] for row in wanted], counts)
        for row, values in zip(wanted, found, strict=True):
            result[row] = chosen[row], values
    return result


def token_logprobs(
    logprobs_N_V: Tensor, tokens: Rows[int], counts: Rows[int], *, with_rank: bool = False
) -> list[TokenLogprobs]:
    """Returns the log-probability of each row's token and of the row's `counts` most probable tokens."""
    tokens_N_1 = torch.tensor(tokens, device=logprobs_N_V.device)[:, None]
    chosen_N_1 = logprobs_N_V.gather(-1, tokens_N_1)
    ranks = [0] * len(tokens)
    if with_rank:
        ranks = ((logprobs_N_V > chosen_N_1).sum(-1) + 1).tolist()
    best: list[tuple[tuple[int, float], ...]] = [()] * len(tokens)
    if most := min(max(counts), logprobs_N_V.shape[-1]):
        values, ids = logprobs_N_V.topk(most, -1)
        pairs = zip(ids.tolist(), values.tolist(), counts, strict=True)
        best = [tuple(zip(row_ids, row_values, strict=True))[:count] for row_ids, row_values, count in pairs]
    rows = zip(tokens, chosen_N_1.squeeze(-1).tolist(), best, ranks, strict=True)
    return [TokenLogprobs(*row) for row in rows]


def _adjust(logits_V: Tensor, sequence: Sequence) -> None:
    """Applies penalties, biases and the constraint of one sequence."""
    body = sequence.request.body
    if sequence.counts:
        ids, counts = torch.tensor(list(sequence.counts.items()), device=logits_V.device).unbind(-1)
        logits_V.index_add_(0, ids, -(body.presence_penalty + body.frequency_penalty * counts).to(logits_V.dtype))
    if body.logit_bias:
        ids = torch.tensor(list(body.logit_bias), device=logits_V.device)
        logits_V.index_add_(0, ids, torch.tensor(list(body.logit_bias.values()), device=logits_V.device))
    if sequence.matcher is not None:
        logits_V.masked_fill_(~_allowed(sequence.matcher, len(logits_V)).to(logits_V.device), -torch.inf)


def _allowed(matcher: Any, size: int) -> Tensor:
    """Returns the tokens that the constraint allows next, [V]."""
    bits = llguidance.numpy.allocate_token_bitmask(1, size)
    llguidance.numpy.fill_next_token_bitmask(matcher, bits)
    words = torch.from_numpy(bits[0])
    return (words[:, None] >> torch.arange(32, dtype=torch.int32) & 1).flatten()[:size].bool()


def _sample(logits_B_V: Tensor, sequences: Rows[Sequence]) -> list[int]:
    chosen_B = _argmax(logits_B_V)
    random = [row for row, sequence in enumerate(sequences) if sequence.request.body.temperature > 0]
    if not random:
        return chosen_B.tolist()
    bodies = [sequences[row].request.body for row in random]
    options: dict[str, Any] = {"dtype": logits_B_V.dtype, "device": logits_B_V.device}
    temperature_S_1 = torch.tensor([body.temperature for body in bodies], **options)[:, None]
    probabilities_S_V = (logits_B_V[random] / temperature_S_1).softmax(-1)
    cut = [index for index, body in enumerate(bodies) if body.top_p < 1]
    if cut:
        top_p_C_1 = torch.tensor([bodies[index].top_p for index in cut], **options)[:, None]
        probabilities_S_V[cut] = nucleus(probabilities_S_V[cut], top_p_C_1)
    uniform_S = torch.tensor([sequences[row].random.random() for row in random], dtype=torch.float64)
    chosen_B[random] = draw(probabilities_S_V, uniform_S.to(logits_B_V.device)).squeeze(-1)
    return chosen_B.tolist()


def _argmax(logits_B_V: Tensor) -> Tensor:
    """Returns the index of each row's first maximum; numpy is 13 times faster than torch 2.13 on a CPU."""
    if logits_B_V.device.type == "cpu":
        return torch.from_numpy(logits_B_V.numpy().argmax(-1))
    return logits_B_V.argmax(-1)
