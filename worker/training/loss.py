"""The token loss with the bounded coefficient (Dynamic Coefficient Rectification, arXiv 2604.14258, eq. 21).

    L = - sum_k sum_t m_kt A_k C(p_kt) log p_kt / N         C(p) = 1 if p >= tau else p, without gradient

tau = 0 and A = 1 is cross-entropy, tau = 1 and A = 1 is DFT, tau = 0 with group advantages is on-policy GRPO.
The paper's eq. 22 counts 1/p twice; the gradient here is A C(p) grad log p.
"""

import torch
from torch import Tensor


def coefficient(logprobs: Tensor, tau: float) -> Tensor:
    """C(p) for log-probabilities of any shape; detached, p comes from exp(log p) and no second softmax."""
    p = logprobs.detach().exp()
    return torch.where(p >= tau, torch.ones_like(p), p)


def token_loss(logprobs_N: Tensor, advantages_N: Tensor, mask_N: Tensor, tau: float, denominator: float) -> Tensor:
    """The summed loss of some tokens over `denominator`, a scalar.

    logprobs_N, advantages_N, mask_N: log p, the advantage of the token's sequence, and 1 where it is trained, all of
    one shape. `denominator` is N, the number of trained tokens of the *whole* optimiser step, so that micro-batches
    and ranks add up to the same gradient. Raises `ValueError` unless it is positive.
    """
    if denominator <= 0:
        raise ValueError("the denominator is the number of trained tokens of the step and must be positive")
    weights = advantages_N * coefficient(logprobs_N, tau) * mask_N
    # torch.where keeps an -inf log p behind the mask from turning 0 x inf into NaN.
    terms = torch.where(mask_N > 0, weights * logprobs_N, torch.zeros_like(logprobs_N))
    return -terms.sum() / denominator


def kl_estimate(logprobs_N: Tensor, reference_N: Tensor) -> Tensor:
    """Estimated KL divergence from the base model of each token, [N].

    The k3 estimator that GRPO uses, exp(d) - d - 1 with d = log p_base - log p: never negative, 0 where both agree.
    """
    difference_N = reference_N - logprobs_N
    return difference_N.exp() - difference_N - 1
