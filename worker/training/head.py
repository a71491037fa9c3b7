"""Log-probabilities of given tokens from hidden states, without ever holding all logits.

The output head is frozen and every row's loss has one weight, so d(log p)/dh is computed chunk by chunk in the forward
pass and scaled by row in the backward: two head products instead of three, no stored [rows, vocabulary] tensor.
"""

from typing import Any, Final

import torch
from torch import Tensor

CHUNK_ELEMENTS: Final = 4 * 1024 * 1024
"""Logits that exist at a time; in fp32 16 MiB, small enough for a CPU's cache."""


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, hidden_N_H: Tensor, weight_V_H: Tensor, tokens_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        rows = max(1, CHUNK_ELEMENTS // weight_V_H.shape[0])
        precision = torch.promote_types(hidden_N_H.dtype, torch.float32)
        logprobs_N = hidden_N_H.new_empty(hidden_N_H.shape[0], dtype=precision)
        entropies_N = torch.empty_like(logprobs_N)
        needs_gradient = context.needs_input_grad[0]
        gradient_N_H = torch.empty_like(hidden_N_H) if needs_gradient else None
        for start in range(0, hidden_N_H.shape[0], rows):
            part = slice(start, start + rows)
            tokens = tokens_N[part]
            logits = (hidden_N_H[part] @ weight_V_H.T).to(precision)
            if temperature != 1:
                logits /= temperature
            logsumexp = logits.logsumexp(-1, keepdim=True)
            logprobs_N[part] = (logits.gather(-1, tokens.unsqueeze(-1)) - logsumexp).squeeze(-1)
            probabilities = (logits - logsumexp).exp_()
            entropies_N[part] = logsumexp.squeeze(-1) - _mean_logit(probabilities, logits)
            if gradient_N_H is not None:
                expected = probabilities.to(weight_V_H.dtype) @ weight_V_H
                gradient_N_H[part] = (weight_V_H[tokens] - expected) / temperature
        if gradient_N_H is not None:
            context.save_for_backward(gradient_N_H)
        context.mark_non_differentiable(entropies_N)
        return logprobs_N, entropies_N

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_N_H,) = context.saved_tensors
        return gradient_N_H * gradients[0].unsqueeze(-1).to(gradient_N_H.dtype), None, None, None


def _mean_logit(probabilities_N_V: Tensor, logits_N_V: Tensor) -> Tensor:
    """Expected logit of each row; tokens that the model forbids (-inf) have no share in it."""
    mean_N = torch.linalg.vecdot(probabilities_N_V, logits_N_V)
    if mean_N.isnan().any():
        mean_N = torch.linalg.vecdot(probabilities_N_V, logits_N_V.nan_to_num(neginf=0.0))
    return mean_N


def token_logprobs(
    hidden_N_H: Tensor, weight_V_H: Tensor, tokens_N: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log p of `tokens_N` and the entropy of each row's distribution, both [N], fp32 or better.

    hidden_N_H: the states that predict the tokens. weight_V_H: the output head, which must be frozen (raises
    `ValueError` otherwise: its gradient would silently be missing). Log p uses the sampling `temperature`. Only log p
    carries a gradient.
    """
    if weight_V_H.requires_grad:
        raise ValueError("the output head is trained; this function is only right for a frozen one")
    result: tuple[Tensor, Tensor] = _FrozenHead.apply(hidden_N_H, weight_V_H, tokens_N, temperature)
    return result
