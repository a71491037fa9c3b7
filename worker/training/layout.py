"""Where the tokens of a packed row stand: segments that continue each other, level by level."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

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
    segments: tuple[Segment, ...]
    _blocks: dict[int, "Blocks"] = field(default_factory=dict)
    _masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    def blocks(self, least: int) -> "Blocks":
        """Returns the segments in blocks, the whole ones of at least `least` tokens. Cached, as `bias` is."""
        if least not in self._blocks:
            self._blocks[least] = blocks_of(self.segments, least, self.index_N_L.device)
        return self._blocks[least]

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
        tuple(segments),
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
class SharedKeys:
    """K tokens that all tokens of some blocks see: one row of them for each of these blocks, or one for all."""

    blocks: Tensor
    index_B_K: Tensor


@dataclass(frozen=True)
class Blocks:
    """The segments of a level, cut into B blocks of up to Q tokens; those of a segment follow one another.

    Blocks are padded on the right with index 0. A token sees its own block causally, and everything in `before`.
    """

    index_B_Q: Tensor
    slots: Tensor
    """Indices of the real tokens in the flattened [B * Q], in packed order."""
    padding_B_Q: Tensor
    """Where there is no token."""
    before: tuple[SharedKeys, ...]

    @property
    def tokens(self) -> slice:
        """The tokens of the level in the packed row."""
        start = int(self.index_B_Q[0, 0])
        return slice(start, start + len(self.slots))


def blocks_of(segments: Sequence[Segment], least: int, device: torch.device) -> Blocks:
    """Returns the segments in blocks of the smallest equal size that has at least `least` tokens, if they have.

    Up to a sixteenth of padding is accepted: 511 tokens are computed faster in two blocks of 256 than in one.
    """
    longest = max(segment.span[1] for segment in segments)
    count = max(1, (longest + longest // 16) // least)
    size = max(min(least, longest), -(-longest // count))
    spans: list[TokenSpan] = []
    earlier: dict[int, list[tuple[int, int]]] = {}
    continued: dict[tuple[TokenSpan, ...], list[int]] = {}
    for segment in segments:
        start, length = segment.span
        for number, offset in enumerate(range(0, length, size)):
            if number:
                earlier.setdefault(number, []).append((len(spans), start))
            if segment.prefix:
                continued.setdefault(segment.prefix, []).append(len(spans))
            spans.append((start + offset, min(size, length - offset)))
    before: list[tuple[list[int], list[tuple[TokenSpan, ...]]]] = [
        ([block for block, _ in found], [((start, number * size),) for _, start in found])
        for number, found in earlier.items()
    ]
    before += [(blocks, [prefix]) for prefix, blocks in continued.items()]
    index_B_Q, slots = _padded([(span,) for span in spans])
    padding = torch.ones(index_B_Q.numel(), dtype=torch.bool)
    padding[slots] = False
    return Blocks(
        index_B_Q.to(device),
        slots.to(device),
        padding.view_as(index_B_Q).to(device),
        tuple(SharedKeys(torch.tensor(blocks, device=device), _padded(keys)[0].to(device)) for blocks, keys in before),
    )
