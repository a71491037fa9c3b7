"""Draws tokens from probabilities. The caller supplies the random numbers."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK: Final = 256


def nucleus(probabilities_B_V: Tensor, top_p: float | Tensor) -> Tensor:
    """Returns the probabilities, zeroed outside the smallest set of tokens that holds `top_p` of the mass.

    `top_p` is one number or [B, 1].
    """
    ordered, order = probabilities_B_V.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # mass of all more probable tokens
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities_B_V).scatter_(-1, order, ordered)


def draw(probabilities_B_V: Tensor, uniform_B: Tensor) -> Tensor:
    """Samples one token per row, [B, 1], by inverting the cumulative distribution at `uniform_B`, fp64 in [0, 1).

    Searches the block sums first and then within one block, so no cumulative sum over the whole vocabulary is built."""
    padded = functional.pad(probabilities_B_V, (0, -probabilities_B_V.shape[-1] % _BLOCK))
    blocks_B_C_S = padded.view(len(padded), -1, _BLOCK)
    masses_B_C = blocks_B_C_S.sum(-1).double()
    ends_B_C = masses_B_C.cumsum(-1)
    # The target is scaled by the total mass, so unnormalised probabilities (after top-p) need no division.
    target_B_1 = uniform_B.unsqueeze(-1) * ends_B_C[:, -1:]
    block_B_1 = torch.searchsorted(ends_B_C, target_B_1, right=True).clamp(max=ends_B_C.shape[-1] - 1)
    rest_B_1 = target_B_1 - (ends_B_C - masses_B_C).gather(-1, block_B_1)
    chosen_B_S = blocks_B_C_S.gather(1, block_B_1.unsqueeze(-1).expand(-1, -1, _BLOCK)).squeeze(1)
    within_B_1 = torch.searchsorted(chosen_B_S.double().cumsum(-1), rest_B_1, right=True)
    # The two sums round differently, so the target can lie past the last token with mass. Take the block's most
    # probable token then.
    token_B_1 = within_B_1.clamp(max=_BLOCK - 1)
    token_B_1 = torch.where(chosen_B_S.gather(-1, token_B_1) > 0, token_B_1, chosen_B_S.argmax(-1, keepdim=True))
    return block_B_1 * _BLOCK + token_B_1
