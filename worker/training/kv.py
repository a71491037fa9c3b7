"""Keys and values of the sequences in a batch, and attention over them. Every sequence starts at position 0.

The batch is one packed row of tokens: one token of each decoding sequence, then parts of prompts. Everything except
attention works token by token, so decoding and prefilling share all matrix products of a step.

Decoding sequences own the first slots of tensors [slots, Hkv, T, D]: a step reads a view of them, and a sequence that
ends is replaced by the last one. A prompt keeps its keys and values in tensors of its own until it is complete, and is
then copied to the slots of its sequences.

On a CPU the output of a token has the same bits whatever other sequences and prompts the step computes, and in which
parts a prompt of at most `PREFILL_TOKENS` tokens is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from worker.training.attention import Options, attention

_TOKEN_STEP: Final = 256
"""The slots grow by at least this number of tokens at a time."""
PREFILL_TOKENS: Final = 512
"""Tokens of prompts that one step computes."""
_VECTOR: Final = 16
"""Attention reads a multiple of this number of keys. torch computes the exponentials of a last, partial
vector with another function than those of whole vectors, so else a result would depend on the longest sequence."""


def _in_vectors(keys: int, device: torch.device) -> int:
    # On a GPU the fused kernel needs as many keys as queries for causal attention.
    return keys if device.type != "cpu" else -(-keys // _VECTOR) * _VECTOR


@dataclass(frozen=True)
class LayerShape:
    """What one attention layer stores per token."""

    heads: int
    """Hkv."""
    key_width: int
    value_width: int


@dataclass(frozen=True)
class LayerAttention:
    """How one layer attends."""

    shape: LayerShape
    query_heads: int
    window: int | None
    options: Options


class AttentionProbe:
    """A `CachedAttention` that stores nothing and records how each layer attends."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerAttention] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Options
    ) -> Tensor:
        """Return causal attention of one sequence: [1, N, H, D] for queries [1, H, N, D]."""
        shape = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        self.layers[layer] = LayerAttention(shape, query.shape[1], window, options)
        return attention(query, key, value, None, options).transpose(1, 2)

    def attend_rows(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Options
    ) -> Tensor:
        """Return the same for [N, H, D]."""
        query, key, value = (each.transpose(0, 1).unsqueeze(0) for each in (query, key, value))
        return self.attend(layer, query, key, value, window, options)[0]


@dataclass(frozen=True)
class Storage:
    """Where and how keys and values are stored."""

    shapes: Mapping[int, LayerShape]
    """By layer."""
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        return (
            sum(each.heads * (each.key_width + each.value_width) for each in self.shapes.values()) * self.dtype.itemsize
        )

    def empty(self, slots: int, tokens: int) -> "dict[int, tuple[Tensor, Tensor]]":
        """Return keys [slots, Hkv, tokens, D] and values of each layer, all zero."""
        return {
            layer: (
                torch.zeros(slots, each.heads, tokens, each.key_width, dtype=self.dtype, device=self.device),
                torch.zeros(slots, each.heads, tokens, each.value_width, dtype=self.dtype, device=self.device),
            )
            for layer, each in self.shapes.items()
        }


class PromptKv:
    """Keys and values of one prompt of at most `capacity` tokens."""

    def __init__(self, storage: Storage, capacity: int) -> None:
        self.layers = storage.empty(1, _in_vectors(capacity, storage.device))
        self.capacity = capacity
        self.length = 0

    def copy_from(self, other: "PromptKv", length: int) -> None:
        """Take over the first `length` tokens of another prompt."""
        for layer, tensors in self.layers.items():
            for own, its in zip(tensors, other.layers[layer], strict=True):
                own[:, :, :length] = its[:, :, :length]
        self.length = length


class KvSlots:
    """Keys and values of the decoding sequences; sequence i of the batch owns slot i.

    A slot is zero after its sequence's tokens. Attention gives these places the weight 0, but 0 times a NaN that
    another sequence left behind would be NaN.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.slots = 0
        self.tokens = 0

    def reserve(self, slots: int, tokens: int, used: int) -> None:
        """Make room for `slots` sequences of `tokens` tokens; the first `used` slots keep their content."""
        if slots <= self.slots and tokens <= self.tokens:
            return
        if slots > self.slots:
            slots = max(slots, min(2 * self.slots, slots + 8))
        if tokens > self.tokens:
            tokens = -(-max(tokens, self.tokens * 5 // 4) // _TOKEN_STEP) * _TOKEN_STEP
        slots, tokens = max(slots, self.slots), max(tokens, self.tokens)
        old, kept = self.layers, self.tokens
        self.layers = {}
        for layer, tensors in self.storage.empty(slots, tokens).items():
            if used:
                for new, previous in zip(tensors, old[layer], strict=True):
                    new[:used, :, :kept] = previous[:used]
            old.pop(layer, None)
            self.layers[layer] = tensors
        self.slots, self.tokens = slots, tokens

    def fill(self, slot: int, prompt: PromptKv) -> None:
        """Copy a prompt to a slot."""
        for layer, tensors in self.layers.items():
            for own, its in zip(tensors, prompt.layers[layer], strict=True):
                own[slot, :, : prompt.length] = its[0, :, : prompt.length]
                own[slot, :, prompt.length :] = 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        for tensors in self.layers.values():
            for own in tensors:
                own[target, :, :length] = own[source, :, :length]
                own[target, :, length:] = 0

    def clear(self) -> None:
        """Free the memory."""
        self.layers, self.slots, self.tokens = {}, 0, 0


@dataclass(frozen=True)
class PromptPart:
    """Tokens of a prompt that a step computes: those of the packed row from `start` to `stop`."""

    kv: PromptKv
    start: int
    stop: int


@dataclass
class StepKv:
    """The `CachedAttention` of one step: `lengths_B` are the stored tokens of the decoding sequences before it."""

    slots: KvSlots
    lengths_B: Tensor
    longest: int
    """The largest of the lengths."""
    parts: tuple[PromptPart, ...]
    _slots_B: Tensor = field(init=False)
    _seen: int = field(init=False)
    """Keys that decoding sequences read, of which those after a sequence's end are hidden."""
    _masks: dict[tuple[object, int | None], Tensor | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._slots_B = torch.arange(self.lengths_B.shape[0], device=self.lengths_B.device)
        self._seen = _in_vectors(self.longest + 1, self.lengths_B.device)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Options
    ) -> Tensor:
        """Stores the keys and values [1, Hkv, N, D] of the step's tokens; returns the output [1, N, H, D]."""
        query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
        return self.attend_rows(layer, query, key, value, window, options).unsqueeze(0)

    def attend_rows(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Options
    ) -> Tensor:
        """Stores the keys and values [N, Hkv, D] of the step's tokens; returns the output [N, H, D]."""
        if not self.parts:
            return self._decode(layer, query, key, value, window, options)
        decoding = self.lengths_B.shape[0]
        outputs = []
        if decoding:
            outputs.append(self._decode(layer, query[:decoding], key[:decoding], value[:decoding], window, options))
        columns = [each.transpose(0, 1).unsqueeze(0) for each in (query, key, value)]
        for part in self.parts:
            q, k, v = (each[:, :, part.start : part.stop] for each in columns)
            outputs.append(self._prefill(part, layer, q, k, v, window, options))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _decode(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, options: Options
    ) -> Tensor:
        """Attention of one token [B, H, D] of each decoding sequence; returns [B, H, D]."""
        decoding, seen = query.shape[0], self._seen
        keys, values = self.slots.layers[layer]
        keys[self._slots_B, :, self.lengths_B] = key
        values[self._slots_B, :, self.lengths_B] = value
        output = attention(
            query.unsqueeze(2),
            keys[:decoding, :, :seen],
            values[:decoding, :, :seen],
            self._decoding_mask(window, query.dtype),
            options,
        )
        return output.squeeze(2)

    def _decoding_mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Returns the bias [B, 1, 1, T] that hides keys after each sequence's end and before its window."""
        name = ("decoding", window)
        if name not in self._masks:
            position_T = torch.arange(self._seen, device=self.lengths_B.device)
            hidden_B_T = position_T > self.lengths_B[:, None]
            if window is not None:
                hidden_B_T |= position_T <= self.lengths_B[:, None] - window
            bias = torch.zeros(hidden_B_T.shape, dtype=dtype, device=hidden_B_T.device)
            self._masks[name] = bias.masked_fill_(hidden_B_T, torch.finfo(dtype).min)[:, None, None]
        return self._masks[name]

    def _prefill(
        self,
        part: PromptPart,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        window: int | None,
        options: Options,
    ) -> Tensor:
        """Attention of the next tokens [1, H, C, D] of a prompt; returns [C, H, D]."""
        begin, end = part.kv.length, part.kv.length + query.shape[2]
        keys, values = part.kv.layers[layer]
        keys[:, :, begin:end] = key
        values[:, :, begin:end] = value
        seen = _in_vectors(end, query.device)
        # The whole prompt decides on the kind of attention, so that the cut into parts does not.
        options = replace(options, limits=options.limits.of_prompt(part.kv.capacity))
        output = attention(
            query,
            keys[:, :, :seen],
            values[:, :, :seen],
            self._part_mask(part, begin, end, window),
            options,
        )
        return output[0].transpose(0, 1)

    def _part_mask(self, part: PromptPart, begin: int, end: int, window: int | None) -> Tensor | None:
        """Returns which keys each token of a prompt's part may attend to, [C, T]; None if that is plainly causal."""
        is_causal = begin == 0 and end > 1  # one query without a mask reads all keys
        if is_causal and (window is None or window >= end):
            return None
        name = (part, window)
        if name not in self._masks:
            query_C_1 = torch.arange(begin, end, device=self.lengths_B.device)[:, None]
            key_T = torch.arange(_in_vectors(end, query_C_1.device), device=query_C_1.device)
            visible_C_T = key_T <= query_C_1
            if window is not None:
                visible_C_T &= key_T > query_C_1 - window
            self._masks[name] = visible_C_T
        return self._masks[name]
