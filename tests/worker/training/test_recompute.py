"""Saved and recomputed tensors of the backward pass."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.worker.training import architectures, plain
from tests.worker.training.architectures import ARCHITECTURES, LORA, random_policy
from worker.training.batching import pack
from worker.training.recompute import rebuild_plan, recompute_activations, recomputed


class _Cubed(torch.autograd.Function):
    """x^3 as a consumer that saves the rebuild plan of its input."""

    @staticmethod
    def forward(context: Any, x: Tensor, plan_for_x: Any) -> Tensor:
        context.rebuild_x, kept = plan_for_x
        context.save_for_backward(*kept)
        return x**3

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * 3 * context.rebuild_x(context.saved_tensors) ** 2, None


def cubed(x: Tensor) -> Tensor:
    result: Tensor = _Cubed.apply(x, rebuild_plan(x))
    return result


class Counted:
    """sin(x) y, counting its calls and holding nothing of what it returned."""

    def __init__(self) -> None:
        self.results: list[weakref.ref[Tensor]] = []

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        result = torch.sin(x) * y
        self.results.append(weakref.ref(result))
        return result


def leaves() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    x, y = (torch.randn(4, 3, generator=random, dtype=torch.float64) for _ in range(2))
    return x.requires_grad_(), y.requires_grad_()


def test_gradients_equal_saving_everything() -> None:
    x, y = leaves()
    z = recomputed(Counted(), x, y)
    found = torch.autograd.grad((cubed(z) + 2 * cubed(z)).sum(), (x, y))
    expected = torch.autograd.grad((3 * (torch.sin(x) * y) ** 3).sum(), (x, y))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_backward_recomputes_once_and_frees() -> None:
    x, y = leaves()
    function = Counted()
    z = recomputed(function, x, y)
    loss = (cubed(z) + 2 * cubed(z)).sum()
    del z
    loss.backward(retain_graph=True)
    assert len(function.results) == 2
    assert function.results[1]() is None
    once = x.grad
    assert once is not None
    again = once.clone()
    loss.backward()
    assert torch.allclose(x.grad, 2 * again, atol=1e-12)  # type: ignore[arg-type] # it has one


def test_detached_input_gets_no_gradient() -> None:
    x, y = leaves()
    recomputed(Counted(), x, y.detach()).sum().backward()
    assert x.grad is not None
    assert y.grad is None


def test_nothing_is_saved_without_gradients() -> None:
    x, y = leaves()
    with torch.no_grad():
        z = recomputed(Counted(), x, y)
    assert rebuild_plan(z)[1] == (z,)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma", "gemma2", "mistral", "granite"])
def test_layer_saves_residuals_and_products_only(tmp_path: Path, name: str) -> None:
    policy = random_policy(architectures.build(tmp_path / name, name))
    random = torch.Generator().manual_seed(1)
    prompt = torch.randint(3, 24, (30,), generator=random).tolist()
    responses = [torch.randint(3, 24, (20,), generator=random).tolist() for _ in range(4)]
    batch = pack(plain.examples([(prompt, responses)]), policy.device)
    weights = {value.untyped_storage().data_ptr() for value in policy.model.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if value.is_floating_point() and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes() // value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        logprobs_N, _ = policy.logprobs(batch, 1.0)
    assert logprobs_N.requires_grad
    config = policy.causal.config
    hidden, inner, tokens = config.hidden_size, config.intermediate_size, batch.ids_1_T.numel()
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    norms = 4 if name == "gemma2" else 2
    head_norms = queries + keys if name == "qwen3" else 0
    # norms' inputs; q, k, v and what attention gives; gate and up; x A^T of seven adapters, and their copies in use
    a_layer = norms * hidden + 2 * queries + 2 * keys + head_norms + 2 * inner + 7 * LORA.r
    adapters = sum(value.numel() for value in policy.trained.values())
    # the last norm's input, the head's gradient, the rotation
    rest = hidden * (tokens + 2 * len(batch.tokens_N)) + 4 * tokens * head
    assert sum(kept.values()) <= config.num_hidden_layers * tokens * a_layer * 1.02 + adapters + rest


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_recomputing_model_is_bit_identical(name: str) -> None:
    factory: Any = AutoModelForCausalLM
    torch.manual_seed(2)
    model: Any = factory.from_config(ARCHITECTURES[name]()).requires_grad_(False).eval()
    ids = torch.arange(3, 20)[None]
    expected = model(input_ids=ids).logits
    recompute_activations(model)
    assert torch.equal(model(input_ids=ids).logits, expected)


class _Reversed(nn.Module):
    """Has the parts of a gated MLP, and does something else with them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(4, 6), nn.Linear(4, 6)
        self.down_proj = nn.Linear(6, 4)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))
        return hidden


def test_other_mlp_is_left_unchanged() -> None:
    module = _Reversed().requires_grad_(False)
    x = torch.randn(2, 4)
    expected = module(x)
    recompute_activations(module)
    assert torch.equal(module(x), expected)


def test_trained_norm_is_left_unchanged() -> None:
    norm = nn.LayerNorm(4)
    recompute_activations(norm)
    norm(torch.randn(2, 4)).sum().backward()
    assert norm.weight.grad is not None


def test_inputs_may_be_passed_by_name() -> None:
    """And with further arguments: such calls are transformers' own."""
    config = ARCHITECTURES["llama"]()
    layer: Any = AutoModelForCausalLM.from_config(config).model.layers[0]
    x = torch.randn(1, 3, config.hidden_size)
    expected = [layer.mlp(x), layer.input_layernorm(x)]
    layer.input_layernorm.requires_grad_(requires_grad=False)
    recompute_activations(layer)
    assert "forward" in vars(layer.mlp)
    assert "forward" in vars(layer.input_layernorm)
    found = [layer.mlp(x=x), layer.input_layernorm(hidden_states=x)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
