"""Attention over groups that share their prompt, plugged into transformers' attention interface.

A packed batch holds each prompt once, then the responses to it, all in one row of tokens: everything but attention
works on tokens one by one, so a prompt's share of the forward and backward pass is paid once a group instead of once
a member. In attention a response sees its own group's prompt and its own earlier tokens, nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION: Final = "grouptune"
SMALL_SCORES: Final = 256 * 1024
"""Up to so many scores a head (queries x keys), a CPU was 1.2 to 13 times faster with plain matrix products than with
their fused kernel; above it the fused kernel's memory, which does not grow with the scores, counts more."""


@dataclass(frozen=True)
class SharedPrefix:
    """Where the tokens of a packed batch are: G prompts one after another, then M responses one after another.

    Gathered copies are padded on the right with token 0, whose contribution is masked or dropped.
    """

    prompt_index_G_P: Tensor
    prompt_slots: Tensor
    """Positions in [G * P] of the real prompt tokens, in packed order."""
    response_index_M_R: Tensor
    response_slots: Tensor
    """Positions in [M * R] of the real response tokens, in packed order."""
    prefix_index_M_P: Tensor
    """Each response's prompt."""
    prefix_length_M: Tensor
    _masks: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def masks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Who may see whom, True for yes: prompts [1, 1, P, P] and responses [M, 1, R, P + R].

        With a sliding `window` only the last `window` positions are visible, the token itself included.
        """
        if window not in self._masks:
            self._masks[window] = self._prompt_mask(window), self._response_mask(window)
        return self._masks[window]

    def _prompt_mask(self, window: int | None) -> Tensor:
        at = torch.arange(self.prompt_index_G_P.shape[1], device=self.prompt_index_G_P.device)
        distance_P_P = at.unsqueeze(1) - at
        seen = distance_P_P >= 0 if window is None else (distance_P_P >= 0) & (distance_P_P < window)
        return seen[None, None]

    def _response_mask(self, window: int | None) -> Tensor:
        device = self.prefix_length_M.device
        prefix, length = self.prefix_index_M_P.shape[1], self.response_index_M_R.shape[1]
        of_prompt, of_response = torch.arange(prefix, device=device), torch.arange(length, device=device)
        lengths_M_1_1 = self.prefix_length_M[:, None, None]
        members = len(self.prefix_length_M)
        query_M_R_1 = lengths_M_1_1 + of_response[None, :, None]
        key_M_1_L = torch.cat([of_prompt.expand(members, -1), self.prefix_length_M[:, None] + of_response], 1)[:, None]
        real_M_1_L = torch.cat([of_prompt < lengths_M_1_1, of_response.expand(members, 1, -1) >= 0], 2)
        distance = query_M_R_1 - key_M_1_L
        seen = real_M_1_L & (distance >= 0)
        return (seen if window is None else seen & (distance < window)).unsqueeze(1)


def shared_prefix(prompts: Sequence[int], responses: Sequence[tuple[int, int]], device: torch.device) -> SharedPrefix:
    """The layout of prompts of these lengths followed by responses of (index of the prompt, length), each positive."""
    starts, at = [], 0
    for length in prompts:
        starts.append(at)
        at += length
    prompt_index, prompt_slots = _padded([(start, length) for start, length in zip(starts, prompts, strict=True)])
    spans = []
    for _, length in responses:
        spans.append((at, length))
        at += length
    response_index, response_slots = _padded(spans)
    prefix_index, _ = _padded([(starts[prompt], prompts[prompt]) for prompt, _ in responses])
    lengths = [prompts[prompt] for prompt, _ in responses]
    return SharedPrefix(
        prompt_index.to(device),
        prompt_slots.to(device),
        response_index.to(device),
        response_slots.to(device),
        prefix_index.to(device),
        torch.tensor(lengths, dtype=torch.long, device=device),
    )


def _padded(spans: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Token indices [len(spans), longest], padded with 0, and the flat positions of the real ones."""
    width = max((length for _, length in spans), default=0)
    index = torch.zeros(len(spans), width, dtype=torch.long)
    real = torch.zeros(len(spans), width, dtype=torch.bool)
    for row, (start, length) in enumerate(spans):
        index[row, :length] = torch.arange(start, start + length)
        real[row, :length] = True
    return index, real.flatten().nonzero().squeeze(-1)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    layout: SharedPrefix | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query [B, H, Q, D], key and value [B, Hkv, L, D] to [B, Q, H, D].

    With `layout` B is 1 and the tokens are packed; `attention_mask` is not read then.
    """
    options = _Options(scaling if scaling is not None else query.shape[-1] ** -0.5, dropout, softcap)
    if layout is None:
        return _scores(query, key, value, attention_mask, options).transpose(1, 2), None
    prompt_mask, response_mask = layout.masks(sliding_window)
    query_T, key_T, value_T = (one[0].transpose(0, 1) for one in (query, key, value))
    of_prompts = layout.prompt_index_G_P
    prompts = _scores(
        _rows(query_T, of_prompts), _rows(key_T, of_prompts), _rows(value_T, of_prompts), prompt_mask, options
    )
    parts = [prompts.transpose(1, 2).flatten(0, 1)[layout.prompt_slots]]
    if layout.response_index_M_R.numel():
        keys, values = (
            torch.cat([_rows(one, layout.prefix_index_M_P), _rows(one, layout.response_index_M_R)], 2)
            for one in (key_T, value_T)
        )
        responses = _scores(_rows(query_T, layout.response_index_M_R), keys, values, response_mask, options)
        parts.append(responses.transpose(1, 2).flatten(0, 1)[layout.response_slots])
    return torch.cat(parts).unsqueeze(0), None


@dataclass(frozen=True)
class _Options:
    scaling: float
    dropout: float
    softcap: float | None


def _rows(tokens_T_H_D: Tensor, index_N_L: Tensor) -> Tensor:
    """Tokens by index as [N, H, L, D]."""
    gathered = tokens_T_H_D.index_select(0, index_N_L.flatten())
    return gathered.view(*index_N_L.shape, *tokens_T_H_D.shape[1:]).transpose(1, 2)


def _scores(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: _Options) -> Tensor:
    """Attention of [B, H, Q, D] over [B, Hkv, L, D]; `mask` is True where visible, None means causal (or one query)."""
    small = query.device.type == "cpu" and query.shape[2] * key.shape[2] <= SMALL_SCORES
    if options.softcap is not None or small:
        return _by_products(query, key, value, mask, options)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    causal = mask is None and query.shape[2] > 1
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=options.dropout, is_causal=causal, scale=options.scaling
    )


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: _Options) -> Tensor:
    """The same, written out; query heads that share a key head go through one product."""
    batch, heads, queries, width = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch, shared, heads // shared * queries, width)
    scores = (grouped @ key.transpose(2, 3)).float() * options.scaling
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    scores = scores.view(batch, heads, queries, -1)
    if mask is None and queries > 1:
        mask = torch.ones(queries, scores.shape[-1], dtype=torch.bool, device=query.device).tril_()
    if mask is not None:
        # The lowest finite number, not -inf: a padded query that sees nothing becomes a mean instead of NaN.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = functional.dropout(scores.softmax(-1).to(value.dtype), options.dropout, training=options.dropout > 0)
    return (weights.view(batch, shared, -1, scores.shape[-1]) @ value).view(batch, heads, queries, value.shape[-1])


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
