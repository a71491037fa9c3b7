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

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from worker.training.blocked_attention import Kept, attend_by_blocks
from worker.training.layout import Layout, SegmentLevel, bias_of
from worker.training.recompute import recomputed

IMPLEMENTATION: Final = "grouptune"


@dataclass(frozen=True)
class CpuLimits:
    """Sizes at which a CPU computes attention another way. Measured on Xeons with AMX, forward and backward."""

    small_scores: int = 48 * 1024
    """Scores per head (queries x keys) up to which plain matrix products are up to 5 times faster than torch's fused
    kernel. Above it the fused kernel wins, because its memory does not grow with the scores: 1.2 times at 256 x 256 and
    2.4 times at 480 x 480."""
    block_queries: int = 768
    """Queries for each key head from which the fused kernel works on 256 of them at a time instead of 64. So blocks
    have at least that many: 1.3 to 1.6 times faster than one call with a mask, 0.7 times with two thirds of them."""

    def of_prompt(self, tokens: int) -> "CpuLimits":
        """Return limits that give each part of a prompt of `tokens` tokens the attention of the whole prompt."""
        return replace(self, small_scores=sys.maxsize if tokens**2 <= self.small_scores else 0)


CPU_LIMITS: Final = CpuLimits()


@dataclass(frozen=True)
class Options:
    """How scores become weights."""

    scaling: float
    dropout: float
    softcap: float | None
    limits: CpuLimits = CPU_LIMITS
    sinks_H: Tensor | None = None
    """Attention sinks: for each head the score of a key without a value, which takes weight from the real keys."""

    def is_small(self, query: Tensor, key: Tensor) -> bool:
        """Returns whether a CPU computes these scores faster by plain products."""
        return query.device.type == "cpu" and query.shape[2] * key.shape[2] <= self.limits.small_scores

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
    cpu_limits: CpuLimits = CPU_LIMITS,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers: query [B, H, Q, D], key and value [B, Hkv, L, D] to output [B, Q, H, D].

    With `layout` the tokens are packed: B is 1 and `attention_mask` is ignored. Only query, key and value are saved for
    the backward pass, and the output where it is computed in blocks; the attention weights are recomputed. With
    `cached` the tokens continue sequences whose earlier keys and values it holds. `s_aux` are transformers' sinks, [H].
    Raises `UnknownArgument` for any other argument that could change the result.
    """
    unknown = [name for name, value in others.items() if value is not None and name not in _WITHOUT_EFFECT]
    if unknown or others.get("is_causal") is False:
        raise UnknownArgument(unknown or ["is_causal"])
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    options = Options(scale, dropout, softcap, cpu_limits, s_aux)
    if cached is not None:
        return cached.attend(int(module.layer_idx), query, key, value, sliding_window, options), None  # type: ignore[arg-type]
    if layout is None:
        # Some architectures view it in another shape.
        return attention(query, key, value, attention_mask, options).transpose(1, 2).contiguous(), None

    kept: list[Kept] = [[] for _ in layout]

    def packed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _packed(query, key, value, layout, sliding_window, options, kept)

    return recomputed(packed, query, key, value), None


def _packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    window: int | None,
    options: Options,
    kept: Sequence[Kept],
) -> Tensor:
    """Attention of a packed row, level by level; returns [1, T, H, D] in packed order."""
    query_T, key_T, value_T = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, heads, D]
    outputs = []
    for level, of_level in zip(layout, kept, strict=True):
        least = _block_tokens(level, query, key, window, options)
        if least is not None and value.shape[-1] == query.shape[-1]:
            blocks = level.blocks(least)
            outputs.append(attend_by_blocks(query_T, key_T, value_T, blocks, options.scaling, of_level))
            continue
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


def _block_tokens(level: SegmentLevel, query: Tensor, key: Tensor, window: int | None, options: Options) -> int | None:
    """Returns the least tokens of the blocks in which a CPU computes this level fastest, or None for another way."""
    longest, before = level.index_N_L.shape[1], level.prefix_index_N_P.shape[1]
    least = -(-options.limits.block_queries * key.shape[1] // query.shape[1])  # times the heads that share a key head
    is_faster = (
        query.device.type == "cpu"
        and longest * (before + longest) > options.limits.small_scores
        and longest >= least
        # Its backward pass has a thread for each segment and key head.
        and len(level.segments) * key.shape[1] >= torch.get_num_threads()
    )
    is_plain = not options.is_modified and not options.dropout and (window is None or window >= before + longest)
    return least if is_faster and is_plain else None


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
