"""The token loss with the bounded coefficient (Dynamic Coefficient Rectification, arXiv 2604.14258, eq. 21).

    L = - sum_k sum_t m_kt A_k C(p_kt) log p_kt / N         C(p) = 1 if p >= tau else p, without gradient

tau = 0 and A = 1 is cross-entropy, tau = 1 and A = 1 is DFT, tau = 0 with group advantages is on-policy GRPO.
The paper's eq. 22 counts 1/p twice; the gradient here is A C(p) grad log p.

DPO (arXiv 2305.18290) compares the two answers of a pair instead; see `preference_loss`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from app.core.spec.policy_loss import Normalization

MAX_LOG_RATIO: Final = 20.0
"""Bound of differences of log-probabilities, in nats, before they are exponentiated or weigh a gradient."""
MAX_KL: Final = 10.0
"""Largest value of a token's estimated KL divergence, in nats. Both bounds are verl's."""


def coefficient(logprobs: Tensor, tau: float) -> Tensor:
    """Returns C(p) for log-probabilities of any shape, without gradient."""
    # Detached: with a gradient through C the update would be A (C + p C' log p) grad log p instead of A C grad log p.
    # p = exp(log p) of the sampled token, at the sampling temperature; a second softmax is not needed.
    p = logprobs.detach().exp()
    return torch.where(p >= tau, torch.ones_like(p), p)


def token_loss(logprobs_N: Tensor, advantages_N: Tensor, mask_N: Tensor, tau: float, denominator: float) -> Tensor:
    """Returns - sum A C(p) log p / N over some tokens of a step, a scalar.

    logprobs_N, advantages_N and mask_N have one shape: log p, the advantage of the token's sequence, and 1 where the
    token is trained. `denominator` is N, the number of trained tokens of the *whole* optimiser step, so that the losses
    and gradients of micro-batches and ranks simply add up. Raises `ValueError` unless it is positive.
    """
    if denominator <= 0:
        raise ValueError("the denominator is the number of trained tokens of the step and must be positive")
    weights = advantages_N * coefficient(logprobs_N, tau) * mask_N
    # torch.where, not the mask alone: a masked token with log p = -inf would give 0 * -inf = NaN.
    terms = torch.where(mask_N > 0, weights * logprobs_N, torch.zeros_like(logprobs_N))
    return -terms.sum() / denominator


def importance_weights(trainer_N: Tensor, sampler_N: Tensor, cap: float) -> Tensor:
    """Returns min(p_trainer / p_sampler, cap) of sampled tokens, [N], from their log-probabilities, without gradient.

    Truncated importance sampling: a sampler with other kernels draws from a slightly different policy, and the weights
    correct for it. Unbounded ones would give rare tokens any weight (Ionides, 2008; Yao et al., 2025).
    """
    return (trainer_N - sampler_N).detach().clamp(max=MAX_LOG_RATIO).exp().clamp(max=cap)


class Clipped(NamedTuple):
    """A clipped loss and the number of tokens without gradient because of the clip."""

    loss: Tensor
    low: int
    """Tokens with a negative weight whose ratio is below the clip."""
    high: int
    """Tokens with a positive weight whose ratio is above the clip."""


def clipped_loss(
    logprobs_N: Tensor, old_N: Tensor, weights_N: Tensor, clip: tuple[float, float], denominator: float
) -> Clipped:
    """Returns PPO's loss of some tokens of a step (arXiv 1707.06347, eq. 7).

        L = - sum min(r w, min(max(r, 1 - low), 1 + high) w) / N        r = p / p_old

    old_N is log p before the first update on the batch, `clip` is (low, high): one number in PPO and GRPO, two in DAPO
    (arXiv 2503.14476). While r is 1, the gradient is that of `token_loss` with tau 0, - w grad log p / N.
    """
    low, high = clip
    # The bound only guards against overflow: with a negative weight a large ratio is not clipped.
    ratio_N = (logprobs_N - old_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    bounded_N = ratio_N.clamp(1 - low, 1 + high)
    loss = -torch.minimum(ratio_N * weights_N, bounded_N * weights_N).sum() / denominator
    return Clipped(
        loss,
        low=int(((ratio_N < 1 - low) & (weights_N < 0)).sum()),
        high=int(((ratio_N > 1 + high) & (weights_N > 0)).sum()),
    )


def denominator(lengths: Sequence[int], normalization: Normalization, max_tokens: int) -> int:
    """Returns what the terms of answers of these `lengths` are divided by.

        token       all their tokens                     DAPO, arXiv 2503.14476; the paper of GFT
        sequence    the answers; see `answer_weight`     GRPO, arXiv 2402.03300
        constant    the answers times `max_tokens`       Dr. GRPO, arXiv 2503.20783

    The sums over micro-batches and ranks are those of the whole step.
    """
    match normalization:
        case "token":
            return sum(lengths)
        case "sequence":
            return len(lengths)
        case "constant":
            return len(lengths) * max_tokens


def answer_weight(length: int, normalization: Normalization) -> float:
    """Returns the factor of each token of an answer: 1 / length if the loss averages the tokens of each answer."""
    return 1 / length if normalization == "sequence" else 1.0


def kl_penalty(logprobs_N: Tensor, reference_N: Tensor) -> Tensor:
    """Returns the estimated KL divergence of the policy from the reference per token, [N], in nats.

    With d = log p_reference - log p, within +-`MAX_LOG_RATIO`:

        value      exp(d) - d - 1, at most `MAX_KL`        Schulman's k3: never negative, and 0 where both agree
        gradient   - d grad log p                          that of k2 = d^2 / 2

    Only of tokens that the policy sampled. The expected gradient of k2 is that of KL(policy || reference); k3's own is
    another one and not bounded (Schulman, "Approximating KL divergence"; Liu et al., arXiv 2510.01555). verl calls this
    pair `low_var_kl+`.
    """
    difference_N = (reference_N - logprobs_N.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    value_N = (difference_N.exp() - difference_N - 1).clamp(max=MAX_KL)
    slope_N = -difference_N * logprobs_N
    return value_N + slope_N - slope_N.detach()


def preference_loss(margins_P: Tensor, beta: float, label_smoothing: float, pairs: float) -> Tensor:
    """Returns the DPO loss of some pairs of a step, a scalar.

        L = - sum_i [(1 - e) log sigmoid(beta m_i) + e log sigmoid(-beta m_i)] / P

    margins_P holds m_i: log p(preferred) - log p(non-preferred), minus the same difference of the reference; log p is
    the sum over an answer's tokens. e is `label_smoothing`, the probability of a wrong label (conservative DPO).
    `pairs` is P, the number of pairs of the *whole* optimiser step, so that micro-batches and ranks add up. Raises
    `ValueError` unless it is positive.
    """
    if pairs <= 0:
        raise ValueError("the number of pairs of the step must be positive")
    scaled_P = beta * margins_P
    losses_P = -(1 - label_smoothing) * logsigmoid(scaled_P) - label_smoothing * logsigmoid(-scaled_P)
    return losses_P.sum() / pairs
