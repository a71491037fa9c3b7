"""The fused LoRA product against PEFT's own forward."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from app.core.spec.job import Lora
from tests.worker.training import architectures, plain
from tests.worker.training.architectures import random_policy, randomise
from tests.worker.training.conftest import ModelDirectory
from worker.training import checkpoints, lora
from worker.training.batching import pack
from worker.training.best_adapter import BestAdapter
from worker.training.model import Policy, load_policy
from worker.training.optimizer import new_optimizer

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


class Two(nn.Module):
    """A layer with a bias and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.second = nn.Linear(10, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.first(x)
        return torch.as_tensor(self.second(hidden.tanh()))


def adapted(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """The same base and adapter values at every call, as PEFT builds them."""
    torch.manual_seed(4)
    chosen: dict[str, Any] = {"r": 3, "lora_alpha": 6, "target_modules": ["first", "second"]} | options
    config = LoraConfig(**chosen)
    model: Any = get_peft_model(Two().to(dtype), config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape))
    return model


def fused(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    model = adapted(dtype, **options)
    assert lora.fuse(model) == 2
    return model


def value_and_gradients(model: Any, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and the gradient of a mixed sum of it by input and adapter."""
    random = torch.Generator().manual_seed(8)
    x = torch.randn(2, 5, 6, generator=random).to(dtype).requires_grad_()
    y = model(x)
    weights = torch.randn(y.shape, generator=random).to(dtype)
    wanted = {"x": x, **plain.trained(model)}
    return y.detach(), dict(zip(wanted, torch.autograd.grad((weights * y).sum(), list(wanted.values())), strict=True))


def test_output_and_gradients_equal_peft() -> None:
    found, found_gradients = value_and_gradients(fused())
    expected, expected_gradients = value_and_gradients(adapted())
    assert torch.allclose(found, expected, atol=1e-6)
    for name, gradient in expected_gradients.items():
        assert gradient.abs().max() > 0.01
        assert torch.allclose(found_gradients[name], gradient, atol=1e-5), name


def test_detached_input_still_trains_the_adapter() -> None:
    x = torch.randn(7, 6)
    found, expected = (plain.gradients(model, model(x).square().sum()) for model in (fused(), adapted()))
    assert plain.distance(found, expected) < 1e-6


def test_only_inputs_and_projections_are_saved() -> None:
    model = fused()
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    x = torch.randn(100, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.get_base_model().first(x)
    assert sum(size for size in sizes if size >= 100) == 100 * 6 + 100 * 3


def test_bf16_base_with_fp32_adapter_is_accurate() -> None:
    model = fused(torch.bfloat16)
    found, gradients = value_and_gradients(model, torch.bfloat16)
    expected, exact = value_and_gradients(adapted())
    assert found.dtype == torch.bfloat16
    assert float((found - expected).norm() / expected.norm()) < 0.02
    for name, value in plain.trained(model).items():
        assert (value.dtype, gradients[name].dtype) == (torch.float32, torch.float32)
        assert float((gradients[name] - exact[name]).norm() / exact[name].norm()) < 0.03, name


def test_disabled_adapter_is_the_base_model() -> None:
    model, x = fused(), torch.randn(3, 6)
    with model.disable_adapter():
        without = model(x)
    base = adapted().unload()
    assert torch.equal(without, base(x))
    assert not torch.allclose(model(x), without, atol=0.1)


def test_merged_adapter_is_not_added_twice() -> None:
    model, x = fused(), torch.randn(3, 6)
    before = model(x)
    model.merge_adapter()
    assert torch.allclose(model(x), before, atol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(model(x), before, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True, "target_modules": ["first"]}]
)
def test_unusual_layers_are_not_fused(options: dict[str, Any]) -> None:
    assert lora.fuse(adapted(**options)) == 0


def test_trained_base_is_not_fused() -> None:
    model = adapted()
    for value in model.parameters():
        value.requires_grad_()
    assert lora.fuse(model) == 0


def difference(policy: Policy, directory: Path) -> float:
    """How far the policy is from PEFT's own forward with the adapter values of now."""
    model = plain.plain_copy(directory, policy)
    with torch.no_grad():
        return float((policy.causal(input_ids=IDS).logits - model(input_ids=IDS).logits).abs().max())


def test_every_linear_layer_is_fused(llama: Policy) -> None:
    layers = [module for module in llama.model.modules() if type(module) is LoraLinear]
    assert len(layers) == 2 * 7
    assert all(isinstance(layer.forward, lora.FusedLora) for layer in layers)


def test_optimiser_step_takes_effect(llama: Policy, model_directory: ModelDirectory) -> None:
    directory = model_directory("llama")
    assert difference(llama, directory) < 1e-5
    optimizer = new_optimizer(llama)
    optimizer.param_groups[0]["lr"] = 0.05
    before = llama.causal(input_ids=IDS).logits
    before.sum().backward()
    optimizer.step()
    after = llama.causal(input_ids=IDS).logits
    assert float((after - before).detach().abs().max()) > 0.1
    assert difference(llama, directory) < 1e-5


def test_restored_checkpoint_takes_effect(llama: Policy, model_directory: ModelDirectory, tmp_path: Path) -> None:
    directory = model_directory("llama")
    kept = checkpoints.save(tmp_path / "kept", llama, new_optimizer(llama), {}, BestAdapter())
    before = llama.causal(input_ids=IDS).logits.detach()
    randomise(llama, seed=6)
    assert float((llama.causal(input_ids=IDS).logits - before).detach().abs().max()) > 0.1
    checkpoints.load(kept, llama, new_optimizer(llama), BestAdapter())
    assert torch.equal(llama.causal(input_ids=IDS).logits.detach(), before)
    assert difference(llama, directory) < 1e-5


def test_bf16_policy_is_close_to_fp32(model_directory: ModelDirectory, tmp_path: Path) -> None:
    policy = randomise(load_policy(model_directory("llama"), architectures.LORA, seed=0, dtype=torch.bfloat16))
    assert {value.dtype for value in policy.trained.values()} == {torch.float32}
    exact = random_policy(model_directory("llama"))
    with torch.no_grad():
        found, expected = (one.causal(input_ids=IDS).logits.float() for one in (policy, exact))
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_dropout_only_in_updates_and_seeded(model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory("llama"), Lora(r=4, alpha=8, dropout=0.5))
    batch = pack([[((5, 6, 7), (8, 9, 10))]], policy.device)

    def logprobs() -> torch.Tensor:
        return policy.logprobs(batch, 1.0)[0]

    still = logprobs()
    assert torch.equal(logprobs(), still)
    with policy.dropping(1):
        first = logprobs()
    with policy.dropping(1):
        assert torch.equal(logprobs(), first)
    with policy.dropping(2):
        assert not torch.equal(logprobs(), first)
    assert not torch.equal(first, still)
    assert torch.equal(logprobs(), still)
