"""Attention over a tree of shared prefixes, plugged into transformers' attention interface.

A packed batch is one row of tokens (`batching.Packed`): the segments of a tree, level by level, such as the prefix of
all prompts, then the rest of each prompt, then the responses. Everything except attention works token by token, so a
shared prefix costs its forward and backward pass only once. In attention a token attends to

    its own segment, up to and including itself     (causal)
    all segments of its prefix                      (a response: the shared prefix and its own prompt's rest)
    nothing else                                    (no other branch of the tree)

With a sliding window it attends to the last `window` of these positions only. Attention therefore runs level by level:
the segments of one level become the rows of one padded batch, each with a gathered copy of its prefix's keys and values
in front.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from worker.training.recompute import recomputed

IMPLEMENTATION: Final = "grouptune"
SMALL_SCORES: Final = 48 * 1024
"""Scores per head (queries x keys) up to which a CPU uses plain matrix products, which are up to 5 times faster there
than torch's fused kernel. Above it the fused kernel wins, because its memory does not grow with the scores: measured on
a Xeon with AMX, forward and backward, 1.2 times at 256 x 256 and 2.4 times at 480 x 480."""


TokenSpan = tuple[int, int]
"""First token in the packed row, and number of tokens."""


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of a packed batch that continue the tokens of the spans in `prefix`."""

    span: TokenSpan
    prefix: tuple[TokenSpan, ...] = ()


@dataclass(frozen=True)
class SegmentLevel:
    """N segments that do not continue each other, padded to L own tokens and P prefix tokens.

    Padding is on the right, with index 0. Padded prefix tokens are masked; padded own tokens are causally invisible to
    real ones, and their own outputs are dropped.
    """

    index_N_L: Tensor
    slots: Tensor
    """Indices of the real tokens in the flattened [N * L], in packed order."""
    prefix_index_N_P: Tensor
    prefix_length_N: Tensor
    _masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Returns the mask as a bias that is added to the scores. Cached, since all layers share it."""
        if (window, dtype) not in self._masks:
            self._masks[window, dtype] = bias_of(self.mask(window), dtype)
        return self._masks[window, dtype]

    def is_causal(self, window: int | None) -> bool:
        """Returns whether each query may attend to all keys up to its own: no prefix, and no window that hides any."""
        return not self.prefix_index_N_P.numel() and (window is None or window >= self.index_N_L.shape[1])

    def mask(self, window: int | None) -> Tensor:
        """Returns which keys each query may attend to: True where visible, [N, 1, L, P + L], or [1, 1, L, L] if P = 0.

        With a sliding `window` only the last `window` positions are visible, the token itself included.
        """
        device = self.index_N_L.device
        width = self.prefix_index_N_P.shape[1]
        # Positions count from the start of the prefix. Segment n has lengths[n] real prefix tokens, so its own token i
        # is at position lengths[n] + i, and prefix token j is at position j.
        lengths_N_1 = self.prefix_length_N[:, None] if width else torch.zeros(1, 1, dtype=torch.long, device=device)
        own_1_L = torch.arange(self.index_N_L.shape[1], device=device)[None]
        before_1_P = torch.arange(width, device=device)[None]
        position_N_L = lengths_N_1 + own_1_L
        key_N_K = torch.cat([before_1_P.expand(len(lengths_N_1), -1), position_N_L], 1)
        # Keys: P prefix slots, of which the first lengths[n] are real, then L own slots. Padded own slots need no
        # masking here, because they come after every real query.
        real_N_K = torch.cat([before_1_P < lengths_N_1, torch.ones_like(position_N_L, dtype=torch.bool)], 1)
        distance_N_L_K = position_N_L[:, :, None] - key_N_K[:, None]
        visible = real_N_K[:, None] & (distance_N_L_K >= 0)  # causal: no key after the query
        return (visible if window is None else visible & (distance_N_L_K < window)).unsqueeze(1)


Layout = tuple[SegmentLevel, ...]
"""The levels of a packed batch, in packed order. Within a level, segments follow one another."""


def bias_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns 0 where the mask is True and the lowest finite number elsewhere.

    Not -inf: the softmax of a padded query that sees nothing would be NaN, whereas equal finite scores give a mean.
    """
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def segment_level(segments: Sequence[Segment], device: torch.device) -> SegmentLevel:
    """Returns the level of these segments, each of at least one token."""
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
    """Returns token indices [len(rows), longest], padded with 0, and the flat indices of the real ones."""
    width = max((sum(length for _, length in spans) for spans in rows), default=0)
    index = torch.zeros(len(rows), width, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, spans in enumerate(rows):
        tokens = [token for start, length in spans for token in range(start, start + length)]
        index[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        real[row, : len(tokens)] = True
    return index, real.flatten().nonzero().squeeze(-1)


@dataclass(frozen=True)
class Options:
    """How scores become weights."""

    scaling: float
    dropout: float
    softcap: float | None
    small_scores: int = SMALL_SCORES
    sinks_H: Tensor | None = None
    """Attention sinks: for each head the score of a key without a value, which takes weight from the real keys."""

    def is_small(self, query: Tensor, key: Tensor) -> bool:
        """Returns whether a CPU computes these scores faster by plain products."""
        return query.device.type == "cpu" and query.shape[2] * key.shape[2] <= self.small_scores

    def is_fused(self, query: Tensor, key: Tensor) -> bool:
        """Returns whether the fused kernel computes these scores. It has neither soft cap nor sinks."""
        return not self.is_modified and not self.is_small(query, key)

    @property
    def is_modified(self) -> bool:
        """Whether scores or weights differ from a plain scaled softmax."""
        return self.softcap is not None or self.sinks_H is not None


_WITHOUT_EFFECT: Final = frozenset(
    {"is_causal", "position_ids", "use_cache", "output_attentions", "output_router_logits"}
)
"""Arguments of attention functions that change no result here: `layout` and `cached` determine positions and masks."""


class UnknownArgument(TypeError):
    """An architecture passes an argument to its attention that `attend` does not implement."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"its attention uses {', '.join(map(repr, names))}")


class CachedAttention(Protocol):
    """Keys and values of sequences that are being decoded."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Options
    ) -> Tensor:
        """Stores the keys and values [1, Hkv, N, D] of N new tokens, and returns the output [1, N, H, D] for their
        queries [1, H, N, D]."""
        ...


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
    s_aux: Tensor | None = None,
    layout: Layout | None = None,
    cached: CachedAttention | None = None,
    small_scores: int = SMALL_SCORES,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers: query [B, H, Q, D], key and value [B, Hkv, L, D] to output [B, Q, H, D].

    With `layout` the tokens are packed: B is 1 and `attention_mask` is ignored. Only query, key and value are saved for
    the backward pass, which recomputes the attention weights. With `cached` the tokens continue sequences whose earlier
    keys and values it holds. `s_aux` are transformers' sinks, [H]. Raises `UnknownArgument` for any other argument that
    could change the result.
    """
    unknown = [name for name, value in others.items() if value is not None and name not in _WITHOUT_EFFECT]
    if unknown or others.get("is_causal") is False:
        raise UnknownArgument(unknown or ["is_causal"])
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    options = Options(scale, dropout, softcap, small_scores, s_aux)
    if cached is not None:
        return cached.attend(int(module.layer_idx), query, key, value, sliding_window, options), None  # type: ignore[arg-type]
    if layout is None:
        return attention(query, key, value, attention_mask, options).transpose(1, 2), None

    def packed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _packed(query, key, value, layout, sliding_window, options)

    return recomputed(packed, query, key, value), None


def _packed(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: int | None, options: Options) -> Tensor:
    """Attention of a packed row, level by level; returns [1, T, H, D] in packed order."""
    query_T, key_T, value_T = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, heads, D]
    outputs = []
    for level in layout:
        keys, values = _rows(key_T, level.index_N_L), _rows(value_T, level.index_N_L)
        if level.prefix_index_N_P.numel():  # prepend each segment's prefix: [N, Hkv, P + L, D]
            keys = torch.cat([_rows(key_T, level.prefix_index_N_P), keys], 2)
            values = torch.cat([_rows(value_T, level.prefix_index_N_P), values], 2)
        queries = _rows(query_T, level.index_N_L)
        if options.is_fused(queries, keys) and level.is_causal(window):
            mask = None  # spares the fused kernel the scores above the diagonal
        else:
            mask = level.bias(window, _score_dtype(query) if options.is_small(queries, keys) else query.dtype)
        output = attention(queries, keys, values, mask, options)
        # [N, H, L, D] -> [N * L, H, D], then only the real tokens. Levels are in packed order, so `cat` restores the
        # row.
        outputs.append(output.transpose(1, 2).flatten(0, 1)[level.slots])
    return torch.cat(outputs).unsqueeze(0)


def _rows(tokens_T_H_D: Tensor, index_N_L: Tensor) -> Tensor:
    """Gathers tokens by index as [N, H, L, D]."""
    gathered = tokens_T_H_D.index_select(0, index_N_L.flatten())
    return gathered.view(*index_N_L.shape, *tokens_T_H_D.shape[1:]).transpose(1, 2)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """Returns attention of [B, H, Q, D] over [B, Hkv, L, D].

    `mask` is boolean (True where visible) or a bias added to the scores. None means causal, or a single query.
    """
    if query.shape[2] == 1 and not options.is_modified and not torch.is_grad_enabled():
        return _one_query(query, key, value, mask, options)
    if not options.is_fused(query, key):
        return _by_products(query, key, value, mask, options)
    repeats = query.shape[1] // key.shape[1]
    shares_keys = repeats > 1 and _reads_shared_keys(query, mask)
    if repeats > 1 and not shares_keys:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    causal = mask is None and query.shape[2] > 1
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=options.dropout,
        is_causal=causal,
        scale=options.scaling,
        enable_gqa=shares_keys,
    )


def _reads_shared_keys(query: Tensor, mask: Tensor | None) -> bool:
    """Returns whether the fused kernel reads each key once for all query heads that share it: flash attention on CUDA.

    It takes no mask. With one, torch would compute shared keys without a fused kernel.
    """
    return query.device.type == "cuda" and mask is None and query.dtype in (torch.bfloat16, torch.float16)


def _one_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """Returns the same as `attention` for decoding, with the query heads of one key head as that head's queries.

    The fused kernel reads each key and value once for all of them: 3 times faster than products on a CPU at 300 keys.
    """
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query.dtype)
    batch, heads, _, width = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch, shared, heads // shared, width)
    output = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=options.scaling)
    return output.reshape(batch, heads, 1, value.shape[3])


def _score_dtype(query: Tensor) -> torch.dtype:
    """Returns the precision of scores in `_by_products`: at least fp32."""
    return torch.promote_types(query.dtype, torch.float32)


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """Returns the same as `attention`, with the scores computed by plain matrix products.

    Grouped-query attention: the H / Hkv query heads that share a key head are stacked along the query axis, so one
    product serves all of them and keys are not repeated.
    """
    batch, heads, queries, width = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch, shared, heads // shared * queries, width)
    scores = (grouped @ key.transpose(2, 3)).to(_score_dtype(query)) * options.scaling
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    scores = scores.view(batch, heads, queries, -1)
    if mask is None and queries > 1:
        mask = torch.ones(queries, scores.shape[-1], dtype=torch.bool, device=query.device).tril_()
    if mask is not None:
        scores = scores + (bias_of(mask, scores.dtype) if mask.dtype == torch.bool else mask)
    if options.sinks_H is not None:
        sinks = options.sinks_H.to(scores.dtype).view(1, -1, 1, 1).expand(batch, -1, queries, 1)
        scores = torch.cat([scores, sinks], -1)
    weights = scores.softmax(-1)
    if options.sinks_H is not None:
        weights = weights[..., :-1]
    weights = functional.dropout(weights.to(value.dtype), options.dropout, training=options.dropout > 0)
    return (weights.reshape(batch, shared, -1, value.shape[2]) @ value).view(batch, heads, queries, value.shape[-1])


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
