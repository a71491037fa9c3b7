"""The one-pass frozen head against autograd through whole logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from worker.training.lm_head import CHUNK_ELEMENTS, Head, chunk_elements, token_logprobs

ROWS, WIDTH, VOCABULARY = 11, 6, 17


def states(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states that want a gradient, the head's weight and a token for each row."""
    random = torch.Generator().manual_seed(3)
    hidden_N_H = torch.randn(ROWS, WIDTH, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    weight_V_H = torch.randn(VOCABULARY, WIDTH, generator=random, dtype=torch.float64).to(dtype)
    return hidden_N_H, weight_V_H, torch.randint(0, VOCABULARY, (ROWS,), generator=random)


def by_autograd(hidden_N_H: Tensor, head: Head, tokens_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log p and entropy, from the definition."""
    logits_N_V = head.scale * (hidden_N_H @ head.weight_V_H.T)
    if head.softcap is not None:
        logits_N_V = head.softcap * torch.tanh(logits_N_V / head.softcap)
    all_N_V = (logits_N_V / temperature).log_softmax(-1)
    entropies_N = -(all_N_V.exp() * all_N_V).sum(-1)
    return all_N_V.gather(-1, tokens_N.unsqueeze(-1)).squeeze(-1), entropies_N


@pytest.mark.parametrize("rows_at_a_time", [1, 4, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, None), (1.0, 2.0), (3.0, 1.5)])
def test_values_and_gradient_equal_autograd(
    rows_at_a_time: int, temperature: float, scale: float, softcap: float | None
) -> None:
    hidden_N_H, weight_V_H, tokens_N = states()
    head = Head(weight_V_H, scale, softcap)
    chunk = rows_at_a_time * VOCABULARY
    logprobs_N, entropies_N = token_logprobs(hidden_N_H, head, tokens_N, temperature, chunk_elements=chunk)
    expected_N, expected_entropies_N = by_autograd(hidden_N_H, head, tokens_N, temperature)
    assert torch.allclose(logprobs_N, expected_N, atol=1e-12, rtol=0)
    assert torch.allclose(entropies_N, expected_entropies_N, atol=1e-12, rtol=0)
    weights_N = torch.randn(ROWS, dtype=torch.float64)
    (found,) = torch.autograd.grad((weights_N * logprobs_N).sum(), hidden_N_H)
    (expected,) = torch.autograd.grad((weights_N * expected_N).sum(), hidden_N_H)
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)


def test_bf16_states_give_fp32_logprobs() -> None:
    hidden_N_H, weight_V_H, tokens_N = states(torch.bfloat16)
    logprobs_N, entropies_N = token_logprobs(hidden_N_H, Head(weight_V_H), tokens_N, 0.6)
    assert (logprobs_N.dtype, entropies_N.dtype) == (torch.float32, torch.float32)
    (found,) = torch.autograd.grad(logprobs_N.sum(), hidden_N_H)
    assert found.dtype == torch.bfloat16
    exact_N_H = hidden_N_H.detach().double().requires_grad_()
    expected_N, _ = by_autograd(exact_N_H, Head(weight_V_H.double()), tokens_N, 0.6)
    (expected,) = torch.autograd.grad(expected_N.sum(), exact_N_H)
    assert float((logprobs_N - expected_N).detach().abs().max()) < 0.05
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_forbidden_tokens_keep_values_finite() -> None:
    """A vocabulary with tokens that the model can never say: their logits are -inf."""
    hidden_N_H, weight_V_H, tokens_N = states()
    hidden_N_H = hidden_N_H.detach().abs()
    weight_V_H[[2, 9]] = 0.0
    weight_V_H[[2, 9], 0] = -torch.inf
    tokens_N = tokens_N.masked_fill((tokens_N == 2) | (tokens_N == 9), 0)
    logprobs_N, entropies_N = token_logprobs(hidden_N_H, Head(weight_V_H), tokens_N)
    kept = [token for token in range(VOCABULARY) if token not in (2, 9)]
    allowed_N_V = (hidden_N_H @ weight_V_H[kept].T).log_softmax(-1)
    places_N = torch.tensor([kept.index(int(token)) for token in tokens_N])
    assert torch.allclose(logprobs_N, allowed_N_V.gather(-1, places_N.unsqueeze(-1)).squeeze(-1), atol=1e-12)
    assert torch.allclose(entropies_N, -(allowed_N_V.exp() * allowed_N_V).sum(-1), atol=1e-12)


def saved_sizes(work: Callable[[], Any]) -> list[int]:
    """Elements of each tensor that autograd keeps while `work` runs."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sizes


def test_no_vocabulary_tensor_is_saved() -> None:
    hidden_N_H, weight_V_H, tokens_N = states()
    head = Head(weight_V_H)
    kept = saved_sizes(lambda: token_logprobs(hidden_N_H, head, tokens_N, 0.6))
    assert sum(kept) == ROWS * WIDTH
    whole = saved_sizes(lambda: by_autograd(hidden_N_H, head, tokens_N, 0.6))
    assert max(whole) >= ROWS * VOCABULARY  # the measure sees what it is for


def test_only_logprobs_have_a_gradient() -> None:
    hidden_N_H, weight_V_H, tokens_N = states()
    logprobs_N, entropies_N = token_logprobs(hidden_N_H, Head(weight_V_H), tokens_N)
    assert logprobs_N.requires_grad
    assert not entropies_N.requires_grad


def test_states_without_gradient_get_none() -> None:
    hidden_N_H, weight_V_H, tokens_N = states()
    logprobs_N, _ = token_logprobs(hidden_N_H.detach(), Head(weight_V_H), tokens_N)
    assert not logprobs_N.requires_grad


def test_trained_head_is_rejected() -> None:
    with pytest.raises(ValueError, match="its gradient would silently be missing"):
        Head(torch.zeros(VOCABULARY, WIDTH, requires_grad=True))


@pytest.mark.parametrize(
    ("free_bytes", "expected"),
    [
        (None, CHUNK_ELEMENTS),  # a CPU
        (2**20, CHUNK_ELEMENTS),
        (2**31, 2**31 // 256),  # a sixteenth of the memory, at 16 bytes a logit
        (2**40, 2**28),
    ],
)
def test_chunks_grow_with_free_memory(free_bytes: int | None, expected: int) -> None:
    assert chunk_elements(free_bytes) == expected
