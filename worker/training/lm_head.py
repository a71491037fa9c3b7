"""Log-probabilities of given tokens from hidden states, without ever holding all logits.

The output head is frozen and every row's loss has one weight, so d(log p)/dh is computed chunk by chunk in the forward
pass and scaled by row in the backward: two head products instead of three, no stored [rows, vocabulary] tensor.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

CHUNK_ELEMENTS: Final = 4 * 1024 * 1024
"""Logits that exist at a time; in fp32 16 MiB, small enough for a CPU's cache."""


@dataclass(frozen=True)
class Head:
    """A frozen output head: logits = cap(scale x h W^T), where cap(l) = softcap x tanh(l / softcap) if there is one."""

    weight_V_H: Tensor
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.weight_V_H.requires_grad:
            raise ValueError("the output head is trained; its gradient would silently be missing")

    def product(self, hidden_N_H: Tensor) -> Tensor:
        """h W^T, [N, V]."""
        return hidden_N_H @ self.weight_V_H.T

    def logits(self, hidden_N_H: Tensor, precision: torch.dtype) -> Tensor:
        """[N, V] in `precision`, a tensor of its own."""
        logits_N_V = self.product(hidden_N_H).to(precision)
        if self.scale != 1:
            logits_N_V *= self.scale
        return logits_N_V if self.softcap is None else self.softcap * torch.tanh(logits_N_V / self.softcap)


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, hidden_N_H: Tensor, head: Head, tokens_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        weight_V_H = head.weight_V_H
        rows = max(1, CHUNK_ELEMENTS // weight_V_H.shape[0])
        precision = torch.promote_types(hidden_N_H.dtype, torch.float32)
        logprobs_N = hidden_N_H.new_empty(hidden_N_H.shape[0], dtype=precision)
        entropies_N = torch.empty_like(logprobs_N)
        needs_gradient = context.needs_input_grad[0]
        gradient_N_H = torch.empty_like(hidden_N_H) if needs_gradient else None
        for start in range(0, hidden_N_H.shape[0], rows):
            part = slice(start, start + rows)
            tokens = tokens_N[part]
            logits = head.logits(hidden_N_H[part], precision)
            # The soft cap is a function of the logit at temperature 1; its slope is 1 - (logit / cap)^2.
            slope = None if head.softcap is None else 1 - (logits / head.softcap) ** 2
            if temperature != 1:
                logits /= temperature
            logprobs = logits.log_softmax(-1)
            logprobs_N[part] = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            probabilities = torch.exp(logprobs, out=logits)  # the logits' memory is warm, and done with
            entropies_N[part] = _entropy(probabilities, logprobs)
            if gradient_N_H is not None:
                chosen = weight_V_H[tokens]
                if slope is not None:
                    chosen = chosen * slope.gather(-1, tokens.unsqueeze(-1)).to(chosen.dtype)
                    probabilities *= slope
                expected = probabilities.to(weight_V_H.dtype) @ weight_V_H
                gradient_N_H[part] = (chosen - expected) * (head.scale / temperature)
        if gradient_N_H is not None:
            context.save_for_backward(gradient_N_H)
        context.mark_non_differentiable(entropies_N)
        return logprobs_N, entropies_N

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_N_H,) = context.saved_tensors
        return gradient_N_H * gradients[0].unsqueeze(-1).to(gradient_N_H.dtype), None, None, None


def _entropy(probabilities_N_V: Tensor, logprobs_N_V: Tensor) -> Tensor:
    """Of each row; tokens that the model forbids (log p = -inf) have no share in it."""
    mean_N: Tensor = torch.linalg.vecdot(probabilities_N_V, logprobs_N_V)
    if mean_N.isnan().any():
        mean_N = torch.linalg.vecdot(probabilities_N_V, logprobs_N_V.nan_to_num(neginf=0.0))
    return -mean_N


def token_logprobs(hidden_N_H: Tensor, head: Head, tokens_N: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log p of `tokens_N` and the entropy of each row's distribution, both [N], fp32 or better.

    hidden_N_H: the states that predict the tokens. Log p uses the sampling `temperature`. Only log p has a gradient.
    """
    result: tuple[Tensor, Tensor] = _FrozenHead.apply(hidden_N_H, head, tokens_N, temperature)
    return result
