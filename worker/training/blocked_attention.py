"""Attention of long segments on a CPU, computed in blocks that need no mask.

torch's flash attention for CPUs is fastest with many queries for each key head and without a mask. A level with masks
spends most of its time on scores above the diagonal, on reading masks, and on one copy of a shared prefix for each of
its segments. So the keys of a query are cut into parts,

    its own block of the segment                  causal: the only part with a mask
    the blocks of its segment before its own      seen whole
    its prefix                                    seen whole, and one copy for all segments that continue it

and the query heads that share a key head are stacked as the queries of one head. Part i returns its output o_i and
l_i, the logarithm of the sum of its exponentiated scores. Together they are

    l = log sum_i exp(l_i)        o = sum_i exp(l_i - l) o_i

A part's backward pass that gets o and l in place of o_i and l_i returns the part's share of the gradients, which add up
(as in ring attention, arXiv 2310.01889). o and l are kept from the forward pass until the backward pass, which would
otherwise compute them again: they are as large as the queries alone.
"""

from typing import Any, Final

import torch
from torch import Tensor

from worker.training.layout import Blocks, bias_of

_FLASH: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_NO_WEIGHT: Final = 1e30
"""As l it makes all weights of a query exp(score - l) = 0."""


Kept = list[tuple[Tensor, Tensor]]
"""o and l of one level, put there by its first computation and taken by its repetition."""


def attend_by_blocks(
    query_T: Tensor, key_T: Tensor, value_T: Tensor, blocks: Blocks, scaling: float, kept: Kept
) -> Tensor:
    """Returns the attention [L, H, D] of a level's L tokens, for packed queries [T, H, D], keys and values [T, Hkv, D].

    On CPUs only.
    """
    output: Tensor = _BlockedAttention.apply(query_T[blocks.tokens], key_T, value_T, blocks, scaling, kept)
    return output


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, query_L: Tensor, key_T: Tensor, value_T: Tensor, blocks: Blocks, scaling: float, kept: Kept
    ) -> Tensor:
        if kept:
            output, total = kept.pop()
        else:
            output, total = _forward(_stack(query_L, blocks, key_T.shape[1]), key_T, value_T, blocks, scaling)
            kept.append((output, total))
        context.save_for_backward(query_L, key_T, value_T, output, total)
        context.blocks, context.scaling = blocks, scaling
        return _unstack(output, blocks, query_L)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_L, key_T, value_T, output, total = context.saved_tensors
        blocks, scaling = context.blocks, context.scaling
        shared = key_T.shape[1]
        query, gradient = _stack(query_L, blocks, shared), _stack(gradients[0], blocks, shared)
        repeats = query.shape[2] // blocks.index_B_Q.shape[1]
        total = total.masked_fill(blocks.padding_B_Q.repeat(1, repeats)[:, None], _NO_WEIGHT)
        exact = torch.promote_types(key_T.dtype, torch.float32)  # sums over many segments
        key_gradient, value_gradient = (torch.zeros_like(each, dtype=exact) for each in (key_T, value_T))

        def part(places: Tensor | slice, index_B_K: Tensor, mask: Tensor | None) -> Tensor:
            some = query[places]
            key, value = (_for_all(_rows(each, index_B_K), some) for each in (key_T, value_T))
            for_query: Tensor
            for_query, for_key, for_value = _FLASH_BACKWARD(
                gradient[places],
                some,
                key,
                value,
                output[places],
                total[places],
                0.0,
                False,
                attn_mask=mask,
                scale=scaling,
            )
            for sums, found in ((key_gradient, for_key), (value_gradient, for_value)):
                if len(index_B_K) < len(found):  # all blocks see the same keys
                    found = found.sum(0, keepdim=True, dtype=exact)
                rows = found.transpose(1, 2).flatten(0, 1)
                sums.index_add_(0, index_B_K.flatten(), rows.to(exact))
            return for_query

        query_gradient = part(slice(None), blocks.index_B_Q, _mask(blocks, query))
        for each in blocks.before:
            query_gradient[each.blocks] += part(each.blocks, each.index_B_K, None)
        return (
            _unstack(query_gradient, blocks, query_L),
            key_gradient.to(key_T.dtype),
            value_gradient.to(value_T.dtype),
            None,
            None,
            None,
        )


def _forward(query: Tensor, key_T: Tensor, value_T: Tensor, blocks: Blocks, scaling: float) -> tuple[Tensor, Tensor]:
    """Returns o and l of stacked queries [B, Hkv, H / Hkv * Q, D]."""
    key, value = _rows(key_T, blocks.index_B_Q), _rows(value_T, blocks.index_B_Q)
    output, total = _FLASH(query, key, value, 0.0, False, attn_mask=_mask(blocks, query), scale=scaling)
    for part in blocks.before:
        key, value = _rows(key_T, part.index_B_K), _rows(value_T, part.index_B_K)
        some = query[part.blocks]
        more, partial = _FLASH(some, _for_all(key, some), _for_all(value, some), 0.0, False, scale=scaling)
        old = total[part.blocks]
        weight = torch.sigmoid(partial - old).unsqueeze(-1).to(more.dtype)
        output[part.blocks] = torch.lerp(output[part.blocks], more, weight)
        total[part.blocks] = torch.logaddexp(old, partial)
    return output, total


def _mask(blocks: Blocks, query: Tensor) -> Tensor:
    """Returns the causal mask of a block as a bias [1, 1, heads * Q, Q]."""
    length = blocks.index_B_Q.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril_()
    return bias_of(causal, query.dtype).repeat(query.shape[2] // length, 1)[None, None]


def _rows(tokens_T_H_D: Tensor, index_B_K: Tensor) -> Tensor:
    """Gathers tokens by index as [B, H, K, D]."""
    gathered = tokens_T_H_D.index_select(0, index_B_K.flatten())
    return gathered.view(*index_B_K.shape, *tokens_T_H_D.shape[1:]).transpose(1, 2)


def _for_all(rows: Tensor, query: Tensor) -> Tensor:
    return rows.expand(len(query), -1, -1, -1)


def _stack(tokens_L: Tensor, blocks: Blocks, shared: int) -> Tensor:
    """Returns a level's tokens [L, H, D] in blocks [B, Hkv, H / Hkv * Q, D]; padding repeats the first token."""
    count, length = blocks.index_B_Q.shape
    places = torch.zeros(count * length, dtype=torch.long, device=tokens_L.device)
    places[blocks.slots] = torch.arange(len(tokens_L), device=tokens_L.device)
    rows = tokens_L.index_select(0, places).view(count, length, shared, -1, tokens_L.shape[-1])
    return rows.permute(0, 2, 3, 1, 4).reshape(count, shared, -1, tokens_L.shape[-1])


def _unstack(rows: Tensor, blocks: Blocks, like: Tensor) -> Tensor:
    """Undoes `_stack` and returns the shape of `like`."""
    count, length = blocks.index_B_Q.shape
    tokens = rows.view(count, rows.shape[1], -1, length, rows.shape[-1]).permute(0, 3, 1, 2, 4)
    return tokens.reshape(count * length, *like.shape[1:]).index_select(0, blocks.slots)
