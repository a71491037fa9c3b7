"""Attention over a tree of shared prefixes, plugged into transformers' attention interface.

A packed batch is one row of tokens: what all prompts begin with (a system prompt, the template's head), then the rest
of each prompt, then the responses. Everything but attention works on tokens one by one, so what is shared is paid once
in the forward and backward pass. In attention a token sees its own segment up to itself and the segments that it
continues, nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from worker.training.recompute import recomputed

IMPLEMENTATION: Final = "grouptune"
SMALL_SCORES: Final = 256 * 1024
"""Up to so many scores a head (queries x keys), a CPU was 1.2 to 13 times faster with plain matrix products than with
their fused kernel; above it the fused kernel's memory, which does not grow with the scores, counts more."""


TokenSpan = tuple[int, int]
"""First token and length."""


@dataclass(frozen=True)
class Segment:
    """Tokens of a packed batch, one after another, that continue the tokens of `prefix`."""

    span: TokenSpan
    prefix: tuple[TokenSpan, ...] = ()


@dataclass(frozen=True)
class SegmentLevel:
    """N segments, none of which continues another, padded to L tokens and P tokens of prefix.

    Gathered copies are padded on the right with token 0, whose contribution is masked or dropped.
    """

    index_N_L: Tensor
    slots: Tensor
    """Places in [N * L] of the real tokens, in packed order."""
    prefix_index_N_P: Tensor
    prefix_length_N: Tensor
    _masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """The mask as what is added to scores; made once for all layers."""
        if (window, dtype) not in self._masks:
            self._masks[window, dtype] = _bias(self.mask(window), dtype)
        return self._masks[window, dtype]

    def mask(self, window: int | None) -> Tensor:
        """Who may see whom, True for yes, [N, 1, L, P + L], or [1, 1, L, L] without prefixes.

        With a sliding `window` only the last `window` positions are visible, the token itself included.
        """
        device = self.index_N_L.device
        width = self.prefix_index_N_P.shape[1]
        lengths_N_1 = self.prefix_length_N[:, None] if width else torch.zeros(1, 1, dtype=torch.long, device=device)
        own_1_L = torch.arange(self.index_N_L.shape[1], device=device)[None]
        before_1_P = torch.arange(width, device=device)[None]
        position_N_L = lengths_N_1 + own_1_L
        key_N_K = torch.cat([before_1_P.expand(len(lengths_N_1), -1), position_N_L], 1)
        real_N_K = torch.cat([before_1_P < lengths_N_1, torch.ones_like(position_N_L, dtype=torch.bool)], 1)
        distance_N_L_K = position_N_L[:, :, None] - key_N_K[:, None]
        seen = real_N_K[:, None] & (distance_N_L_K >= 0)
        return (seen if window is None else seen & (distance_N_L_K < window)).unsqueeze(1)


Layout = tuple[SegmentLevel, ...]
"""Where the tokens of a packed batch are: the segments of each level follow one another, level after level."""


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where the mask is True, elsewhere the lowest finite number: a padded query that sees nothing becomes a mean,
    where -inf would make it NaN."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def segment_level(segments: Sequence[Segment], device: torch.device) -> SegmentLevel:
    """The level of these segments, each of at least one token."""
    index, slots = _padded([(segment.span,) for segment in segments])
    prefix_index, _ = _padded([segment.prefix for segment in segments])
    lengths = [sum(length for _, length in segment.prefix) for segment in segments]
    return SegmentLevel(
        index.to(device),
        slots.to(device),
        prefix_index.to(device),
        torch.tensor(lengths, dtype=torch.long, device=device),
    )


def _padded(rows: Sequence[tuple[TokenSpan, ...]]) -> tuple[Tensor, Tensor]:
    """Token indices [len(rows), longest], padded with 0, and the flat places of the real ones."""
    width = max((sum(length for _, length in spans) for spans in rows), default=0)
    index = torch.zeros(len(rows), width, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, spans in enumerate(rows):
        tokens = [token for start, length in spans for token in range(start, start + length)]
        index[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        real[row, : len(tokens)] = True
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
    layout: Layout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query [B, H, Q, D], key and value [B, Hkv, L, D] to [B, Q, H, D].

    With `layout` B is 1 and the tokens are packed; `attention_mask` is not read then.
    """
    options = _Options(scaling if scaling is not None else query.shape[-1] ** -0.5, dropout, softcap)
    if layout is None:
        return _scores(query, key, value, attention_mask, options).transpose(1, 2), None

    def packed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _packed(query, key, value, layout, sliding_window, options)

    return recomputed(packed, query, key, value), None


def _packed(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, options: "_Options"
) -> Tensor:
    query_T, key_T, value_T = (one[0].transpose(0, 1) for one in (query, key, value))
    parts = []
    for part in layout:
        keys, values = _rows(key_T, part.index_N_L), _rows(value_T, part.index_N_L)
        if part.prefix_index_N_P.numel():
            keys = torch.cat([_rows(key_T, part.prefix_index_N_P), keys], 2)
            values = torch.cat([_rows(value_T, part.prefix_index_N_P), values], 2)
        queries = _rows(query_T, part.index_N_L)
        bias = part.bias(window, _precision(query) if _is_small(queries, keys) else query.dtype)
        seen = _scores(queries, keys, values, bias, options)
        parts.append(seen.transpose(1, 2).flatten(0, 1)[part.slots])
    return torch.cat(parts).unsqueeze(0)


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
    """Attention of [B, H, Q, D] over [B, Hkv, L, D]; `mask` is True where visible, or what is added to the scores; None
    means causal (or one query)."""
    if options.softcap is not None or _is_small(query, key):
        return _by_products(query, key, value, mask, options)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    causal = mask is None and query.shape[2] > 1
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=options.dropout, is_causal=causal, scale=options.scaling
    )


def _is_small(query: Tensor, key: Tensor) -> bool:
    return query.device.type == "cpu" and query.shape[2] * key.shape[2] <= SMALL_SCORES


def _precision(query: Tensor) -> torch.dtype:
    """Of scores that are written out."""
    return torch.promote_types(query.dtype, torch.float32)


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: _Options) -> Tensor:
    """The same, written out; query heads that share a key head go through one product."""
    batch, heads, queries, width = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch, shared, heads // shared * queries, width)
    scores = (grouped @ key.transpose(2, 3)).to(_precision(query)) * options.scaling
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    scores = scores.view(batch, heads, queries, -1)
    if mask is None and queries > 1:
        mask = torch.ones(queries, scores.shape[-1], dtype=torch.bool, device=query.device).tril_()
    if mask is not None:
        scores = scores + (_bias(mask, scores.dtype) if mask.dtype == torch.bool else mask)
    weights = functional.dropout(scores.softmax(-1).to(value.dtype), options.dropout, training=options.dropout > 0)
    return (weights.view(batch, shared, -1, scores.shape[-1]) @ value).view(batch, heads, queries, value.shape[-1])


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
