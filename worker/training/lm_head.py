"""Log-probabilities of given tokens from hidden states, computed in chunks: no [N, vocabulary] tensor is ever stored.

The output head W is frozen, so the only gradient is that of the hidden states. With logits z = W h and token y,

    d(log p_y)/dh = W_y - sum_v p_v W_v

needs nothing from later layers: the loss multiplies each row by one number. So the forward pass computes it chunk by
chunk, while the chunk's probabilities exist, and stores [N, H]. The backward pass only scales the rows. That takes two
products with W; recomputing the logits in the backward pass would take three.
"""

from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from app.core.spec.reports import TrainerExit
from worker.training.types import JobFailure

CHUNK_ELEMENTS: Final = 4 * 1024 * 1024
"""Logits per chunk: 16 MiB in fp32, small enough for a CPU's cache."""
_MAX_CHUNK_ELEMENTS: Final = 64 * CHUNK_ELEMENTS
_BYTES_PER_LOGIT: Final = 16
"""Of a chunk's logits, log-probabilities and slopes in fp32, and of copies in the head's precision."""
_SHARE: Final = 16
"""A chunk takes at most this part of the free memory."""


def chunk_elements(free_bytes: int | None) -> int:
    """Returns the logits per chunk for a GPU with this free memory, or for a CPU (None).

    Every chunk reads the whole head twice, so few rows at a time would make a GPU wait for its memory.
    """
    if free_bytes is None:
        return CHUNK_ELEMENTS
    return min(_MAX_CHUNK_ELEMENTS, max(CHUNK_ELEMENTS, free_bytes // (_SHARE * _BYTES_PER_LOGIT)))


class UnknownHead(TypeError):
    """An architecture's output head is not the one that `Head` computes."""


@dataclass(frozen=True)
class Head:
    """A frozen output head: logits = cap(scale * h W^T), with cap(l) = softcap * tanh(l / softcap), or l without
    one."""

    weight_V_H: Tensor
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.weight_V_H.requires_grad:
            raise ValueError("the output head must be frozen: its gradient would silently be missing")

    def product(self, hidden_N_H: Tensor) -> Tensor:
        """Returns h W^T, [N, V]."""
        return hidden_N_H @ self.weight_V_H.T

    def logits(self, hidden_N_H: Tensor, precision: torch.dtype) -> Tensor:
        """Returns the logits [N, V] in `precision`, as a new tensor that the caller may modify."""
        logits_N_V = self.product(hidden_N_H).to(precision)
        if self.scale != 1:
            logits_N_V *= self.scale
        return logits_N_V if self.softcap is None else self.softcap * torch.tanh(logits_N_V / self.softcap)


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, hidden_N_H: Tensor, head: Head, tokens_N: Tensor, temperature: float, chunk_elements: int
    ) -> tuple[Tensor, Tensor]:
        weight_V_H = head.weight_V_H
        rows = max(1, chunk_elements // weight_V_H.shape[0])
        precision = torch.promote_types(hidden_N_H.dtype, torch.float32)
        logprobs_N = hidden_N_H.new_empty(hidden_N_H.shape[0], dtype=precision)
        entropies_N = torch.empty_like(logprobs_N)
        needs_gradient = context.needs_input_grad[0]
        gradient_N_H = torch.empty_like(hidden_N_H) if needs_gradient else None
        for start in range(0, hidden_N_H.shape[0], rows):
            part = slice(start, start + rows)
            tokens = tokens_N[part]
            logits = head.logits(hidden_N_H[part], precision)
            # The cap applies before the temperature. With l the capped logit, its slope is 1 - tanh^2 = 1 - (l /
            # cap)^2.
            slope = None if head.softcap is None else 1 - (logits / head.softcap) ** 2
            if temperature != 1:
                logits /= temperature
            logprobs = logits.log_softmax(-1)
            logprobs_N[part] = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            probabilities = torch.exp(logprobs, out=logits)  # reuse the memory of the logits
            entropies_N[part] = _entropy(probabilities, logprobs)
            if gradient_N_H is not None:
                # d(log p_y)/dh = (scale / temperature) (slope_y W_y - sum_v p_v slope_v W_v)
                chosen = weight_V_H[tokens]
                if slope is not None:
                    chosen = chosen * slope.gather(-1, tokens.unsqueeze(-1)).to(chosen.dtype)
                    probabilities *= slope
                expected = probabilities.to(weight_V_H.dtype) @ weight_V_H
                gradient_N_H[part] = (chosen - expected) * (head.scale / temperature)
        if gradient_N_H is not None:
            context.save_for_backward(gradient_N_H)
        context.mark_non_differentiable(entropies_N)
        return logprobs_N, entropies_N

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        # gradients[0] is dL/d(log p), one number per row; the entropies are not differentiable.
        (gradient_N_H,) = context.saved_tensors
        return gradient_N_H * gradients[0].unsqueeze(-1).to(gradient_N_H.dtype), None, None, None, None


def _entropy(probabilities_N_V: Tensor, logprobs_N_V: Tensor) -> Tensor:
    """Returns the entropy of each row in nats. Forbidden tokens (log p = -inf, p = 0) contribute 0.

    May overwrite `logprobs_N_V`.
    """
    if probabilities_N_V.device.type != "cpu":  # looking for NaN would wait for the device in every chunk
        finite_N_V = logprobs_N_V.clamp_(min=torch.finfo(logprobs_N_V.dtype).min)
        return -cast(Tensor, torch.linalg.vecdot(probabilities_N_V, finite_N_V))
    mean_N: Tensor = torch.linalg.vecdot(probabilities_N_V, logprobs_N_V)
    if mean_N.isnan().any():  # 0 * -inf; rare, so the copy below is made only then
        mean_N = torch.linalg.vecdot(probabilities_N_V, logprobs_N_V.nan_to_num(neginf=0.0))
    return -mean_N


def token_logprobs(
    hidden_N_H: Tensor, head: Head, tokens_N: Tensor, temperature: float = 1.0, *, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Returns log p of `tokens_N` and the entropy of each row's distribution, both [N], in nats, fp32 or better.

    hidden_N_H holds the states that predict the tokens. Both use the sampling `temperature`. Only log p has a gradient.
    `chunk_elements` is the number of logits that exist at a time.
    """
    result: tuple[Tensor, Tensor] = _FrozenHead.apply(hidden_N_H, head, tokens_N, temperature, chunk_elements)
    return result


def check_frozen(causal: Any) -> None:
    """Raises `JobFailure` if the output head of a causal model is trained."""
    linear = causal.get_output_embeddings()
    if linear is not None and (linear.weight.requires_grad or hasattr(linear, "lora_A")):
        raise JobFailure(
            TrainerExit.bad_config,
            "trained_head",
            "The output head must stay frozen: remove it from hyperparameters.lora.target_modules.",
            "method.hyperparameters.lora.target_modules",
        )


def head_of(causal: Any) -> Head:
    """Returns the output head of a causal model. Raises `UnknownHead` if it is no plain matrix."""
    linear = causal.get_output_embeddings()
    has_bias = getattr(linear, "bias", None) is not None
    if has_bias or not isinstance(linear, nn.Linear) or not linear.weight.is_floating_point():
        raise UnknownHead("its output head is no plain matrix")
    config = causal.config.get_text_config()
    # Cohere multiplies its logits, Granite divides them, Gemma caps them.
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(linear.weight, scale, getattr(config, "final_logit_softcapping", None))
