"""Packed and joined products against the layers one by one."""

import pytest
import torch
from torch import Tensor

from app.core.spec.job import Lora
from tests.worker.training import architectures
from tests.worker.training.architectures import random_policy
from tests.worker.training.conftest import ModelDirectory
from worker.training.model import Policy
from worker.training.rollouts.decoding import Decoder, _can_pack

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def logits(policy: Policy, decoder: Decoder | None) -> Tensor:
    """Of every position, by the packed products or, without a decoder, by the layers' own."""
    with torch.no_grad():
        if decoder is None:
            return policy.head.logits(policy.hidden(IDS, torch.ones_like(IDS)).last_hidden_state, torch.float32)
        with decoder.head() as head:
            assert head is not None
            return head.logits(policy.hidden(IDS, torch.ones_like(IDS)).last_hidden_state, torch.float32)


def test_packed_products_equal_the_layers(policy: Policy) -> None:
    """In fp32, on every architecture: biases, fused and unfused layers, tied heads, scales and caps."""
    assert _can_pack(policy)
    assert torch.allclose(logits(policy, Decoder(policy)), logits(policy, None), atol=1e-5)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bf16 products")
def test_bf16_rounds_like_the_layers(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = architectures.build(tmp_path_factory.mktemp("bf16") / "llama", "llama", torch.bfloat16)
    policy = random_policy(directory)
    packed, plain = logits(policy, Decoder(policy)), logits(policy, None)
    assert plain.abs().max() > 1
    assert float((packed - plain).abs().max()) < 0.05
    with policy.base_only():
        assert float((plain - logits(policy, None)).abs().max()) > 0.5  # the adapter is not what was lost in rounding


def test_layers_with_one_input_share_a_product(llama: Policy) -> None:
    sizes = [len(layers) for layers in Decoder(llama)._layers_by_input]
    assert sizes == [3, 1, 2, 1] * 2  # query, key and value; output; gate and up; down


def test_each_product_runs_once(llama: Policy) -> None:
    decoder = Decoder(llama)
    with torch.no_grad(), torch.autograd.profiler.profile() as made, decoder.head():
        llama.hidden(IDS, torch.ones_like(IDS))
    assert sum(event.name == "mkldnn::_linear_pointwise" for event in made.function_events) == 8


def test_packed_adapter_is_current(llama: Policy) -> None:
    decoder = Decoder(llama)
    before = logits(llama, decoder)
    architectures.randomise(llama, seed=77)
    after = logits(llama, decoder)
    assert float((after - before).abs().max()) > 1e-2
    assert torch.allclose(after, logits(llama, None), atol=1e-5)


def test_base_only_packs_without_the_adapter(llama: Policy) -> None:
    decoder = Decoder(llama)
    with llama.base_only():
        base = logits(llama, decoder)
        assert torch.allclose(base, logits(llama, None), atol=1e-5)
    assert not torch.allclose(base, logits(llama, decoder), atol=1e-2)


@pytest.mark.parametrize("lora", [Lora(r=4, alpha=8, use_dora=True), Lora(r=4, alpha=8, dropout=0.5)], ids=str)
def test_unfused_layers_keep_their_forward(lora: Lora, model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory("llama"), lora)
    decoder = Decoder(policy)
    assert decoder._layers_by_input == []
    assert torch.allclose(logits(policy, decoder), logits(policy, None), atol=1e-5)


def test_layers_are_restored_after_an_error(llama: Policy) -> None:
    expected = logits(llama, None)
    with pytest.raises(KeyError), Decoder(llama).head():
        raise KeyError
    architectures.randomise(llama, seed=6)
    assert not torch.allclose(logits(llama, None), expected, atol=1e-2)
    [first, *_] = llama.trained.values()
    llama.hidden(IDS, torch.ones_like(IDS)).last_hidden_state.sum().backward()
    assert first.grad is not None
