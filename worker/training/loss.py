"""The token loss with the bounded coefficient (Dynamic Coefficient Rectification, arXiv 2604.14258, eq. 21).

    L = - sum_k sum_t m_kt A_k C(p_kt) log p_kt / N         C(p) = 1 if p >= tau else p, without gradient

tau = 0 and A = 1 is cross-entropy, tau = 1 and A = 1 is DFT, tau = 0 with group advantages is on-policy GRPO.
The paper's eq. 22 counts 1/p twice; the gradient here is A C(p) grad log p.

DPO (arXiv 2305.18290) compares the two answers of a pair instead; see `preference_loss`.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


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


def kl_estimate(logprobs_N: Tensor, reference_N: Tensor) -> Tensor:
    """Returns the estimated KL divergence of the policy from the base model per token, [N], in nats.

    The k3 estimator of GRPO, exp(d) - d - 1 with d = log p_base - log p: never negative, and 0 where both agree.
    """
    difference_N = reference_N - logprobs_N
    return difference_N.exp() - difference_N - 1


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
