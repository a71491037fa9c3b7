"""A base model in memory, prepared for decoding: trunk, output head, adapted layers, and the shapes of its cache."""

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from worker.serving.errors import RequestError
from worker.serving.llama_layers import replace_layers
from worker.serving.projections import AdaptedLayers
from worker.training.attention import IMPLEMENTATION, UnknownArgument
from worker.training.base_model import load_base
from worker.training.failures import diagnose
from worker.training.kv import AttentionProbe, KvSlots, PromptKv, PromptPart, StepKv, Storage
from worker.training.lm_head import Head, UnknownHead, head_of
from worker.training.packed import PackedHead, PackedWeight, can_pack
from worker.training.short_limits import short_limits
from worker.training.types import JobFailure

PROBE_TOLERANCE: Final = 0.25
"""In nats, see `probe_error`. Rounding stays well below it; a missing state, scale or cap exceeds it."""
PROBE: Final = tuple(7 * i % 23 for i in range(1, 25))
"""Longer than windows and sparse indices, which the check shortens."""
_PARTS: Final = ((0, 5), (5, 12))
"""Parts of the probe that are prefilled; the rest is decoded token by token."""


class NotPacked(Exception):
    """Packed rows do not give the base model's own log-probabilities; the text says why, as a clause."""


class ServedBase:
    """One base model on one device."""

    def __init__(self, name: str, causal: Any, device: torch.device) -> None:
        self.name = name
        self.device = device
        self._causal = causal
        self._trunk: Any = causal.base_model
        head = head_of(causal)
        dtype = head.weight_V_H.dtype
        causal.set_attn_implementation("eager")
        with short_limits(causal):
            expected_short = self._own_logprobs()
        expected = self._own_logprobs()
        causal.set_attn_implementation(IMPLEMENTATION)
        probe = AttentionProbe()
        pack = can_pack(device, dtype)
        ids = torch.tensor([PROBE], device=device)
        positions = torch.arange(ids.shape[1], device=device)[None]
        self.layers = AdaptedLayers(causal, lambda: self._forward(ids, positions, probe), pack=pack)
        self.storage = Storage({layer: each.shape for layer, each in probe.layers.items()}, dtype, device)
        self.head: Head = head
        with short_limits(causal):
            self._verify(expected_short)
        # Replaced layers keep their windows, so they must not be made while windows are short.
        self.short_layers = replace_layers(causal, self.layers, probe, lambda: self._forward(ids, positions, probe))
        """Number of decoder layers that `llama_layers` computes."""
        if pack:
            packed = PackedWeight(head.weight_V_H)
            self.head = PackedHead(head.weight_V_H, head.scale, head.softcap, packed)
        self._verify(expected)

    @classmethod
    def load(cls, name: str, directory: Path, device: torch.device) -> "ServedBase":
        """Load a base model. Raises `RequestError` if that fails, and `NotPacked`."""
        with torch.inference_mode():
            causal = load_causal(name, directory, device)
            try:
                return cls(name, causal, device)
            except (NotPacked, UnknownArgument, UnknownHead) as error:
                reason = str(error)
            except Exception as error:  # an architecture may lack any part that packed rows need
                if diagnose(error) is not None:
                    raise _not_loadable(name, error) from error
                reason = f"decoding in packed rows fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise NotPacked(reason)  # without a cause, whose frames would keep the model in memory

    def hidden(self, ids_N: Tensor, positions_N: Tensor, kv: StepKv) -> Tensor:
        """Returns the last hidden states [N, H] of a packed row of tokens."""
        return self._forward(ids_N[None], positions_N[None], kv)

    def _forward(self, ids_1_N: Tensor, positions_1_N: Tensor, cached: Any) -> Tensor:
        output = self._trunk(
            input_ids=ids_1_N,
            position_ids=positions_1_N,
            # transformers passes a 4D mask through unchanged. `attend` ignores it and masks by `cached` instead.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            use_cache=False,
            cached=cached,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def _own_logprobs(self) -> Tensor:
        """Returns log p of the probe's tokens by the model's own forward pass, before its layers are replaced."""
        ids_1_T = torch.tensor([PROBE], device=self.device)
        return probe_logprobs(self._causal(input_ids=ids_1_T, use_cache=False).logits[0])

    def _verify(self, expected: Tensor) -> None:
        """Checks that a prompt in two parts and then single tokens give the model's own log-probabilities.

        Architectures keep other states than keys and values, or modify scores and logits in different ways. An
        unsupported way would silently give wrong answers; this raises `NotPacked` instead.
        """
        probe = torch.tensor(PROBE, device=self.device)
        slots, prompt = KvSlots(self.storage), PromptKv(self.storage, _PARTS[-1][1])
        none = torch.zeros(0, dtype=torch.long, device=self.device)
        states = []
        for begin, end in _PARTS:
            kv = StepKv(slots, none, 0, (PromptPart(prompt, 0, end - begin),))
            states.append(self.hidden(probe[begin:end], torch.arange(begin, end, device=self.device), kv))
            prompt.length = end
        slots.reserve(1, len(PROBE), used=0)
        slots.fill(0, prompt)
        for position in range(_PARTS[-1][1], len(PROBE) - 1):
            at = torch.tensor([position], device=self.device)
            states.append(self.hidden(probe[at], at, StepKv(slots, at, position, ())))
        found = probe_logprobs(self.head.logits(torch.cat(states), torch.float32))
        error = probe_error(found, expected, self._causal.dtype)
        if not error < PROBE_TOLERANCE:
            raise NotPacked(f"its log-probabilities differ by {error:.2g} nats from transformers' eager attention")


def load_causal(name: str, directory: Path, device: torch.device) -> Any:
    """Returns a model as transformers loads it. Raises `RequestError` if that fails."""
    try:
        causal, _ = load_base(directory, device, None, "native")
    except JobFailure as error:
        raise RequestError(400, str(error.code), str(error), "model") from error
    except (OSError, ValueError, RuntimeError, NotImplementedError, AttributeError, KeyError, TypeError) as error:
        raise _not_loadable(name, error) from error
    return causal.eval().requires_grad_(False)


def probe_logprobs(logits_T_V: Tensor) -> Tensor:
    """Returns log p [T - 1] of the probe's tokens from the second one on, by the logits at the positions before."""
    following = torch.tensor(PROBE[1:], device=logits_T_V.device)[:, None]
    return logits_T_V[: len(following)].float().log_softmax(-1).gather(-1, following).squeeze(-1)


def probe_error(found: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """Returns the largest difference of log-probabilities; in bf16 and fp16 the root mean square.

    Logits of unlikely tokens are rounded to eighths in bf16: two orders of the same sums differ by 0.08 to 0.13 in the
    root mean square and 0.3 at most (SmolLM2-135M).
    """
    differences = found - expected
    return float(differences.abs().max() if dtype == torch.float32 else differences.square().mean().sqrt())


def _not_loadable(name: str, error: Exception) -> RequestError:
    return RequestError(500, "model_not_loadable", f"Base model '{name}' cannot be loaded: {error}", "model")
