"""Sampling from probabilities, against exact probabilities."""

import math

import pytest
import torch
from torch import Tensor

from worker.training.rollouts.sampling import draw, nucleus


def uniforms(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distribution() -> Tensor:
    """Over 700 tokens in three blocks: peaks at both ends, a block's border, a long tail, and zeros everywhere."""
    random = torch.Generator().manual_seed(1)
    weights_V = torch.rand(700, generator=random) ** 6
    weights_V[torch.rand(700, generator=random) < 0.5] = 0
    weights_V[256:512] = 0  # a block without any mass
    weights_V[[0, 255, 512, 699]] = torch.tensor([20.0, 10, 15, 5])
    return weights_V / weights_V.sum()


def test_samples_follow_the_probabilities() -> None:
    count, p_V = 40_000, distribution()
    drawn = torch.cat([draw(p_V.expand(4000, -1), uniforms(4000, part)) for part in range(count // 4000)])
    seen_V = torch.bincount(drawn.squeeze(1), minlength=700).double()
    assert seen_V[p_V == 0].sum() == 0
    expected_V = count * p_V.double()
    often = expected_V >= 5
    rest = expected_V[~often].sum()
    statistic = float(((seen_V - expected_V)[often] ** 2 / expected_V[often]).sum())
    statistic += float((seen_V[~often].sum() - rest) ** 2 / rest)
    freedom = int(often.sum())
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def test_only_token_with_mass_is_sampled() -> None:
    rows_B_V = torch.zeros(700, 700).fill_diagonal_(1e-30)
    assert torch.equal(draw(rows_B_V, uniforms(700)).squeeze(1), torch.arange(700))


def test_rounding_stays_within_the_vocabulary() -> None:
    """The largest uniform number, over probabilities of sizes at which sums in another order differ."""
    rows_B_V = torch.rand(3000, 300, generator=torch.Generator().manual_seed(1)) ** 20
    rows_B_V /= rows_B_V.sum(-1, keepdim=True)
    tokens_B_1 = draw(rows_B_V, torch.full((3000,), 1 - 2**-53, dtype=torch.float64))
    assert int(tokens_B_1.max()) < 300
    assert bool((rows_B_V.gather(1, tokens_B_1) > 0).all())


def test_smallest_number_samples_first_with_mass() -> None:
    rows_B_V = torch.zeros(2, 700)
    rows_B_V[0, [300, 301, 600]] = torch.tensor([0.2, 0.5, 0.3])  # behind a block without mass, and inside its own
    rows_B_V[1, [0, 699]] = 0.5
    assert draw(rows_B_V, torch.zeros(2, dtype=torch.float64)).squeeze(1).tolist() == [300, 0]


@pytest.mark.parametrize(("top_p", "kept"), [(1.0, 4), (0.95, 4), (0.9, 3), (0.7, 2), (0.5, 1), (0.01, 1)])
def test_nucleus_is_the_smallest_set(top_p: float, kept: int) -> None:
    p_B_V = torch.tensor([[0.125, 0.5, 0.0625, 0.3125], [0.5, 0.3125, 0.125, 0.0625]], dtype=torch.float64)
    cut_B_V = nucleus(p_B_V, top_p)
    assert (cut_B_V > 0).sum(-1).tolist() == [kept, kept]
    most = p_B_V.sort(-1, descending=True).values[:, :kept]
    assert torch.equal(cut_B_V.sort(-1, descending=True).values[:, :kept], most)
    assert torch.equal(cut_B_V[cut_B_V > 0], p_B_V[cut_B_V > 0])


def test_each_row_has_its_own_nucleus() -> None:
    p_V = torch.tensor([0.125, 0.5, 0.0625, 0.3125], dtype=torch.float64)
    cut_B_V = nucleus(p_V.expand(3, -1), torch.tensor([[1.0], [0.7], [0.5]], dtype=torch.float64))
    assert (cut_B_V > 0).sum(-1).tolist() == [4, 2, 1]
