"""The token loss and its corners."""

import math
from typing import Final

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from app.core.spec.advantages import group_advantages
from app.core.spec.policy_loss import Normalization
from worker.training.loss import (
    answer_weight,
    clipped_loss,
    coefficient,
    denominator,
    importance_weights,
    kl_penalty,
    preference_loss,
    token_loss,
)

ROWS, VOCABULARY = 9, 7
NORMALIZATIONS: Final[tuple[Normalization, ...]] = ("token", "sequence", "constant")


def logits_and_tokens() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    logits_N_V = 2 * torch.randn(ROWS, VOCABULARY, generator=random, dtype=torch.float64)
    return logits_N_V.requires_grad_(), torch.randint(0, VOCABULARY, (ROWS,), generator=random)


def logprobs(logits_N_V: Tensor, tokens_N: Tensor) -> Tensor:
    return logits_N_V.log_softmax(-1).gather(-1, tokens_N.unsqueeze(-1)).squeeze(-1)


def gradient(loss: Tensor, logits_N_V: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits_N_V)[0]


def ones() -> Tensor:
    return torch.ones(ROWS, dtype=torch.float64)


def test_tau_0_with_advantage_1_is_cross_entropy() -> None:
    logits_N_V, tokens_N = logits_and_tokens()
    loss = token_loss(logprobs(logits_N_V, tokens_N), ones(), ones(), 0.0, ROWS)
    expected = functional.cross_entropy(logits_N_V, tokens_N)
    assert torch.allclose(loss, expected, atol=1e-12)
    assert torch.allclose(gradient(loss, logits_N_V), gradient(expected, logits_N_V), atol=1e-12)


def test_tau_1_with_advantage_1_is_dft() -> None:
    """DFT: each token's cross-entropy times its own probability, through which no gradient flows."""
    logits_N_V, tokens_N = logits_and_tokens()
    loss = token_loss(logprobs(logits_N_V, tokens_N), ones(), ones(), 1.0, ROWS)
    p_N = logits_N_V.softmax(-1)[torch.arange(ROWS), tokens_N].detach()
    expected = (p_N * functional.cross_entropy(logits_N_V, tokens_N, reduction="none")).mean()
    assert torch.allclose(loss, expected, atol=1e-12)
    assert torch.allclose(gradient(loss, logits_N_V), gradient(expected, logits_N_V), atol=1e-12)


def test_gradient_is_advantage_times_coefficient() -> None:
    logits_N_V, tokens_N = logits_and_tokens()
    advantages_N = torch.linspace(-2, 2, ROWS, dtype=torch.float64)
    tau = 0.3
    found = gradient(token_loss(logprobs(logits_N_V, tokens_N), advantages_N, ones(), tau, 5.0), logits_N_V)
    p_N_V = logits_N_V.softmax(-1).detach()
    p_N = p_N_V[torch.arange(ROWS), tokens_N]
    assert 0 < int((p_N < tau).sum()) < ROWS
    weights_N = advantages_N * torch.where(p_N < tau, p_N, torch.ones_like(p_N)) / 5.0
    expected = -weights_N.unsqueeze(-1) * (functional.one_hot(tokens_N, VOCABULARY) - p_N_V)
    assert torch.allclose(found, expected, atol=1e-12)


def test_coefficient_is_1_from_tau_else_p() -> None:
    p = torch.tensor([0.1, 0.6999, 0.7, 0.9, 1.0], dtype=torch.float64)
    tau = float(p.log().exp()[2])
    found = coefficient(p.log().requires_grad_(), tau)
    assert torch.allclose(found, torch.tensor([0.1, 0.6999, 1, 1, 1], dtype=torch.float64))
    assert not found.requires_grad


def test_centred_advantages_sum_to_zero_loss() -> None:
    advantages = torch.tensor(group_advantages([1.0, 0.0, 0.0, 0.5]), dtype=torch.float64)
    logprobs_N = torch.full((4,), -0.4, dtype=torch.float64)
    assert float(token_loss(logprobs_N, advantages, torch.ones(4), 0.0, 4)) == pytest.approx(0, abs=1e-12)


def test_masked_tokens_have_no_gradient() -> None:
    logits_N_V, tokens_N = logits_and_tokens()
    mask_N = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 1, 1], dtype=torch.float64)
    loss = token_loss(logprobs(logits_N_V, tokens_N), 2 * ones(), mask_N, 0.0, 6)
    kept = mask_N.bool()
    expected = 2 * functional.cross_entropy(logits_N_V[kept], tokens_N[kept], reduction="sum") / 6
    assert torch.allclose(loss, expected, atol=1e-12)
    assert gradient(loss, logits_N_V)[~kept].abs().max() == 0


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_masked_impossible_token_is_harmless(tau: float) -> None:
    logprobs_N = torch.tensor([-0.5, -math.inf, -1.0], requires_grad=True)
    loss = token_loss(logprobs_N, torch.ones(3), torch.tensor([1.0, 0, 1]), tau, 2)
    assert loss.isfinite()
    assert gradient(loss, logprobs_N).isfinite().all()


def test_parts_with_one_denominator_add_up() -> None:
    logits_N_V, tokens_N = logits_and_tokens()
    whole = token_loss(logprobs(logits_N_V, tokens_N), ones(), ones(), 0.7, ROWS)
    parts = sum(
        token_loss(logprobs(logits_N_V[part], tokens_N[part]), ones()[part], ones()[part], 0.7, ROWS)
        for part in (slice(0, 1), slice(1, 4), slice(4, ROWS))
    )
    assert torch.allclose(torch.as_tensor(parts), whole, atol=1e-12)


@pytest.mark.parametrize("denominator", [0, -1])
def test_non_positive_denominator_is_rejected(denominator: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        token_loss(torch.zeros(1), torch.ones(1), torch.ones(1), 0.0, denominator)


def test_kl_penalty_by_hand() -> None:
    """Value exp(d) - d - 1, gradient -d, with d = log p_reference - log p; neither is more than its bound."""
    reference_N = torch.tensor([-1.0, -2.0, -0.5, -1.0, -90.0], dtype=torch.float64)
    logprobs_N = torch.tensor([-1.0, -1.5, -1.0, -60.0, -1.0], dtype=torch.float64, requires_grad=True)
    found_N = kl_penalty(logprobs_N, reference_N)
    expected = [0.0, math.exp(-0.5) + 0.5 - 1, math.exp(0.5) - 0.5 - 1, 10.0, 10.0]
    assert found_N.detach().tolist() == pytest.approx(expected, abs=1e-12)
    assert gradient(found_N.sum(), logprobs_N).tolist() == pytest.approx([0.0, 0.5, -0.5, -20.0, 20.0])


def test_kl_gradient_is_exact_in_expectation() -> None:
    """The mean over all tokens, weighted by their probability, is the gradient of KL(policy || reference)."""
    logits_V, reference_V = (0.5 * torch.randn(2, VOCABULARY, dtype=torch.float64)).unbind()
    logits_V.requires_grad_()
    reference_V = reference_V.log_softmax(-1)
    logprobs_V = logits_V.log_softmax(-1)
    exact = (logprobs_V.exp() * (logprobs_V - reference_V)).sum()
    estimate = (logprobs_V.detach().exp() * kl_penalty(logprobs_V, reference_V)).sum()
    assert float(estimate.detach()) == pytest.approx(float(exact.detach()))
    (found_V,) = torch.autograd.grad(estimate, logits_V, retain_graph=True)
    assert torch.allclose(found_V, gradient(exact, logits_V), atol=1e-12)


def test_importance_weights_by_hand() -> None:
    trainer_N = torch.tensor([-1.0, -1.0, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    sampler_N = torch.tensor([-1.0, -1.5, -1.0, -90.0], dtype=torch.float64)
    found_N = importance_weights(trainer_N, sampler_N, 2.0)
    assert found_N.tolist() == pytest.approx([1.0, math.exp(0.5), math.exp(-1.0), 2.0])
    assert not found_N.requires_grad


def test_clipped_loss_by_hand() -> None:
    """Ratios 1, 1.5, 1.5, 0.5, 0.5: clipped where a move has gone far enough in the direction of its weight."""
    ratios = [1.0, 1.5, 1.5, 0.5, 0.5]
    weights_N = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    logprobs_N = torch.tensor([-1.0 + math.log(r) for r in ratios], dtype=torch.float64, requires_grad=True)
    found = clipped_loss(logprobs_N, torch.full_like(logprobs_N, -1.0), weights_N, (0.2, 0.3), 4.0)
    assert float(found.loss.detach()) == pytest.approx(-(2.0 + 1.3 - 1.5 + 0.5 - 0.8) / 4)
    assert (found.low, found.high) == (1, 1)
    assert gradient(found.loss, logprobs_N).tolist() == pytest.approx([-0.5, 0.0, 0.375, -0.125, 0.0])


def test_clipped_loss_is_the_token_loss_at_ratio_1() -> None:
    logits_N_V, tokens_N = logits_and_tokens()
    weights_N = torch.linspace(-2, 2, ROWS, dtype=torch.float64)
    logprobs_N = logprobs(logits_N_V, tokens_N)
    plain = torch.autograd.grad(token_loss(logprobs_N, weights_N, ones(), 0.0, 5.0), logits_N_V, retain_graph=True)[0]
    clipped = clipped_loss(logprobs_N, logprobs_N.detach(), weights_N, (0.2, 0.2), 5.0)
    assert torch.allclose(gradient(clipped.loss, logits_N_V), plain, atol=1e-12)


def test_denominators_by_hand() -> None:
    """Answers of 2 and 6 tokens: each token's weight by token 1/8, by sequence 1/4 and 1/12, by constant 1/20."""
    by = {name: [answer_weight(n, name) / denominator([2, 6], name, 10) for n in (2, 6)] for name in NORMALIZATIONS}
    assert by["token"] == [1 / 8, 1 / 8]
    assert by["sequence"] == pytest.approx([1 / 4, 1 / 12])
    assert by["constant"] == [1 / 20, 1 / 20]


def margins() -> Tensor:
    return torch.tensor([-3.0, 0.0, 0.4, 25.0], dtype=torch.float64, requires_grad=True)


def test_preference_loss_by_hand() -> None:
    """Without smoothing log(1 + exp(-beta m)); ln 2 where policy and reference agree."""
    expected = sum(math.log1p(math.exp(-0.3 * m)) for m in (-3.0, 0.0, 0.4, 25.0)) / 4
    assert float(preference_loss(margins(), 0.3, 0.0, 4).detach()) == pytest.approx(expected, abs=1e-12)
    assert float(preference_loss(torch.zeros(3), 0.3, 0.2, 3)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_preference_gradient_by_hand(smoothing: float) -> None:
    """- beta (1 - e - sigmoid(beta m)) / P: with smoothing, a margin can be too large."""
    one = margins()
    found = gradient(preference_loss(one, 0.3, smoothing, 4), one)
    wins = torch.sigmoid(0.3 * one.detach())
    assert torch.allclose(found, -0.3 * (1 - smoothing - wins) / 4, atol=1e-12)
    assert bool(found[3] > 0) is (smoothing > 0)


def test_pairs_of_parts_add_up() -> None:
    one = margins()
    parts = sum(preference_loss(one[part], 0.3, 0.1, 4) for part in (slice(0, 1), slice(1, 4)))
    assert torch.allclose(torch.as_tensor(parts), preference_loss(one, 0.3, 0.1, 4), atol=1e-12)


def test_step_without_pairs_is_rejected() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        preference_loss(torch.zeros(0), 0.1, 0.0, 0)
