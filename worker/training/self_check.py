"""Selects the path to the log-probabilities, by a comparison with transformers' own eager attention.

Architectures change scores, masks, norms and logits in many ways. A path that misses one of them would silently train
another model. So both paths are compared with the same weights under transformers' eager attention: the
log-probabilities, and the gradient of every LoRA tensor, whose B is random during the check because a new adapter's is
0 and would hide its A. The check runs on one model in memory; only its attention is switched.

Windows, attention chunks and sparse indices are shortened for the check, in both computations, because a sequence
longer than 4,096 or 131,072 tokens would cost more than the training that follows.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from app.core.spec.reports import TrainingPath
from worker.training.attention import UnknownArgument
from worker.training.batching import Example, pack
from worker.training.distributed import PeerLost
from worker.training.failures import diagnose
from worker.training.lora_targets import coverage
from worker.training.rope import length_limit
from worker.training.short_limits import short_limits

if TYPE_CHECKING:
    from worker.training.model import Policy

_PROMPT, _ANSWER, _SHORT_PROMPT, _SHORT_ANSWER = 20, 12, 4, 3
_B_SPREAD: Final = 0.02
_MAX_TOKENS: Final = 4096


class Tolerance(NamedTuple):
    """Largest differences that rounding explains."""

    logprobs: float
    """In nats, root mean square."""
    gradients: float
    """Euclidean distance over Euclidean length."""


EXACT: Final = Tolerance(1e-3, 1e-2)
ROUNDED: Final = Tolerance(0.25, 0.3)
"""In bf16, and in 4 bits, which compute in bf16: SmolLM2-135M differs by 0.085 and 0.07, and transformers' own fused
attention by 0.06 from its eager one. A missing ingredient exceeds at least one of both."""


class Measured(NamedTuple):
    """Log p of the tokens of some sequences, and the gradient of their weighted sum for every LoRA tensor."""

    logprobs_N: Tensor
    gradients: list[Tensor]


def select_path(policy: "Policy", max_length: int | None = None, avoid: str | None = None) -> None:
    """Switches `policy` to the fast path if it agrees with transformers, else to the plain path, and records why.

    `max_length` is the length of the longest sequence that will be computed, if it is known. `avoid` is a reason
    against the fast path that is known already.
    Raises whatever transformers' own forward or backward pass raises, and `ValueError` if its results are not finite,
    the model is not causal, or the plain path differs even with eager attention.
    """
    started = time.monotonic()
    groups = check_groups(policy.causal)
    with short_limits(policy.causal), random_b(policy):
        policy.use_plain("", "eager")
        reference = _measure(policy, lambda: eager_logprobs(policy.causal, groups))
        if not all(bool(value.isfinite().all()) for value in (reference.logprobs_N, *reference.gradients)):
            raise ValueError("its log-probabilities or gradients are not finite")
        tolerance = tolerance_of(policy)
        if _change_by_later_tokens(policy, groups[0]) > tolerance.logprobs:
            raise ValueError("its tokens depend on the tokens after them, so it cannot write text from left to right")

        def problem(path: str, groups: list[list[Example]] = groups, expected: Measured = reference) -> str | None:
            found = _measure(policy, lambda: policy.logprobs(pack(groups, policy.device), 1.0)[0])
            return _difference(path, found, expected, tolerance)

        reason = avoid or _mixed_frequencies(policy, max_length)
        reason = reason or _attempt(policy.use_fast, lambda: _other_states(policy.causal) or problem("fast"))
        # transformers usually selects torch's fused attention. Eager attention is right by definition.
        if reason is not None and _attempt(lambda: policy.use_plain(reason), lambda: problem("plain")) is not None:
            policy.use_plain(reason, "eager")
            # A sparse index chooses among tokens of equal scores by the shape of its batch: it must be the same here.
            alone = [group[:2] for group in groups]
            own = _measure(policy, lambda: _one_by_one(policy.causal, alone))
            if (difference := problem("plain", alone, own)) is not None:
                raise ValueError(difference)
    covered = coverage(policy.model)
    policy.path = TrainingPath(
        name=policy.path.name,
        reason=reason or "",
        check_seconds=round(time.monotonic() - started, 3),
        lora_coverage=covered.total,
        expert_lora_coverage=covered.experts,
    )


def _change_by_later_tokens(policy: "Policy", group: Sequence[Example]) -> float:
    """Returns how much log p of an answer depends on the tokens after it, in nats (root mean square): 0 if causal."""
    (prompt, answer), (_, other) = group[:2]
    with torch.no_grad(), policy.lockstep():
        ends = [eager_logprobs(policy.causal, [[(prompt, (*answer, *end))]])[: len(answer)] for end in (answer, other)]
    return float((ends[0] - ends[1]).square().mean().sqrt())


def _other_states(causal: Any) -> str | None:
    """Returns why sequences of these layers cannot be packed, or None. Raises whatever transformers' cache raises.

    Weights that are nearly zero could hide it from the comparison.
    """
    if not causal._is_stateful:
        layers = DynamicCache(config=causal.config).layers
        if not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers):
            return None
    return "some of its layers (Mamba, linear attention, convolutions) carry a state from each token to the next"


def _mixed_frequencies(policy: "Policy", max_length: int | None) -> str | None:
    """Returns why sequences of different lengths cannot share a forward pass, or None."""
    limit = length_limit(policy.causal.config)
    if limit is None or max_length is None or max_length <= limit:
        return None
    return (
        f"max_length is {max_length:,}, and a sequence of more than {limit:,} tokens changes the position embeddings "
        "of all sequences in its forward pass"
    )


def _attempt(switch: Callable[[], None], problem: Callable[[], str | None]) -> str | None:
    """Returns why a path cannot be used, or None."""
    try:
        switch()
        return problem()
    except UnknownArgument as error:
        return str(error)
    except Exception as error:  # an architecture may lack any part that the path needs
        if isinstance(error, OSError | PeerLost) or diagnose(error) is not None:
            raise
        return f"the fast path fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _difference(path: str, found: Measured, expected: Measured, tolerance: Tolerance) -> str | None:
    """Returns the difference that rounding does not explain as a clause, or None."""
    error = float((found.logprobs_N - expected.logprobs_N).square().mean().sqrt())
    if not error <= tolerance.logprobs:  # also for NaN
        return f"log-probabilities of the {path} path differ by {error:.2g} nats from transformers' own"
    pairs = list(zip(found.gradients, expected.gradients, strict=True))
    apart = sum(float((one - other).square().sum()) for one, other in pairs)
    size = sum(float(other.square().sum()) for _, other in pairs)
    error = (apart / size) ** 0.5 if size else 0.0
    if not error <= tolerance.gradients:
        return f"gradients of the {path} path differ by {error:.0%} from transformers' own"
    return None


def tolerance_of(policy: "Policy") -> Tolerance:
    """Returns the tolerance for the precision of the policy's base model."""
    dtypes = {value.dtype for value in policy.causal.parameters() if not value.requires_grad}
    return EXACT if dtypes <= {torch.float32, torch.float64} else ROUNDED


def check_groups(causal: Any) -> list[list[Example]]:
    """Returns the sequences of the check: answers to one prompt, a later turn, and a group that is shorter than all
    limits."""
    usable = ordinary_tokens(causal.config)[:_MAX_TOKENS]
    random = torch.Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(usable[torch.randint(len(usable), (length,), generator=random)].tolist())

    prompt, answer = ids(_PROMPT), ids(_ANSWER)
    turns: list[Example] = [(prompt, answer), (prompt, ids(_ANSWER)), (prompt + answer + ids(2), ids(_SHORT_ANSWER))]
    return [turns, [(ids(_SHORT_PROMPT), ids(_SHORT_ANSWER))]]


def ordinary_tokens(config: Any) -> Tensor:
    """Returns the ids [V] of a model's tokens, except those with a role in its config (an image, for example)."""
    reserved = {
        value
        for each in (config, config.get_text_config())
        for name, value in each.to_dict().items()
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    return torch.tensor([token for token in range(config.get_text_config().vocab_size) if token not in reserved])


def eager_logprobs(causal: Any, groups: Sequence[Sequence[Example]]) -> Tensor:
    """Returns log p of each trained token [N], from all logits of one plain call of the model.

    Sequences are padded on the right, where a causal model's earlier tokens cannot see it.
    """
    sequences = [sequence for group in groups for sequence in group]
    inputs = [[*context, *trained[:-1]] for context, trained in sequences]
    width = max(map(len, inputs))
    ids_B_T = torch.tensor([[*ids, *ids[-1:] * (width - len(ids))] for ids in inputs], device=causal.device)
    logits_B_T_V = causal(input_ids=ids_B_T, use_cache=False).logits
    results = []
    for logits_T_V, (context, trained) in zip(logits_B_T_V, sequences, strict=True):
        logits_L_V = logits_T_V[len(context) - 1 : len(context) - 1 + len(trained)]
        tokens_L_1 = torch.tensor(trained, device=causal.device)[:, None]
        results.append(logits_L_V.float().log_softmax(-1).gather(-1, tokens_L_1).squeeze(-1))
    return torch.cat(results)


def _one_by_one(causal: Any, groups: Sequence[Sequence[Example]]) -> Tensor:
    """Returns log p of each trained token [N], from a call of the model for each sequence."""
    return torch.cat([eager_logprobs(causal, [[sequence]]) for group in groups for sequence in group])


def _measure(policy: "Policy", logprobs: Callable[[], Tensor]) -> Measured:
    parameters = list(policy.trained.values())
    with policy.lockstep(gradients=True):  # all ranks compute the same
        logprobs_N = logprobs()
        weights_N = torch.linspace(-1, 1, len(logprobs_N), device=logprobs_N.device)
        gradients = torch.autograd.grad((weights_N * logprobs_N).sum(), parameters, allow_unused=True)
    used = [
        torch.zeros_like(value) if gradient is None else gradient
        for value, gradient in zip(parameters, gradients, strict=True)
    ]
    return Measured(logprobs_N.detach(), used)


@contextmanager
def random_b(policy: "Policy") -> Iterator[None]:
    """Makes the adapter's B matrices random within the block."""
    random = torch.Generator().manual_seed(1)
    saved = {value: value.detach().clone() for name, value in policy.trained.items() if "lora_B" in name}
    try:
        with torch.no_grad():
            for value in saved:
                value.copy_(_B_SPREAD * torch.randn(value.shape, generator=random))
        yield
    finally:
        with torch.no_grad():
            for value, before in saved.items():
                value.copy_(before)
