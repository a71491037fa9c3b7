"""The plain path: its samples, memory and turns; `test_families` compares each family with transformers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, GenerationConfig, ModernBertDecoderConfig, ZambaConfig

from app.core.spec.job import Sampling
from tests.worker.training import plain
from tests.worker.training.architectures import (
    BOS,
    END,
    LONG_FACTORS,
    LORA,
    PAD,
    SIZES,
    VOCABULARY,
    WINDOW,
    build,
    random_policy,
    randomise,
)
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.test_attention import random_groups
from worker.training.batching import pack
from worker.training.model import Policy, load_policy
from worker.training.rollouts.sampler import Sampler, generator

CPU = torch.device("cpu")
GROUPS = random_groups([(2 * WINDOW, (5, 1)), (3, (2 * WINDOW,))])


@pytest.mark.parametrize("name", ["qwen3-next", "falcon-h1", "llama4"])
def test_greedy_samples_equal_generate(name: str, model_directory: ModelDirectory) -> None:
    """Also for models with a recurrent state, which the packed sampler cannot keep."""
    policy = random_policy(model_directory(name))
    assert not policy.is_fast
    model = plain.plain_copy(model_directory(name), policy)
    prompts = [tuple(prompt) for prompt, _ in GROUPS]
    sampler = Sampler(policy, (END,), PAD)
    config = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=END, pad_token_id=PAD)
    for prompt, [completion] in zip(prompts, sampler.sample(prompts, 1, Sampling(max_tokens=6), None), strict=True):
        ids = torch.tensor([prompt])
        own = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        assert completion.ids == tuple(own[0, len(prompt) :].tolist())


@pytest.mark.parametrize("name", ["falcon-h1", "lfm2"])
def test_states_without_effect_are_not_packed(name: str, model_directory: ModelDirectory, tmp_path: Path) -> None:
    """The comparison cannot see them, but the packed sampler could not keep them once training gives them an effect."""
    model = plain.plain_base(model_directory(name))
    with torch.no_grad():
        for layer in model.model.layers:
            for part in ("mamba", "conv"):
                if hasattr(layer, part):
                    getattr(layer, part).out_proj.weight.zero_()
    model.save_pretrained(tmp_path)
    policy = load_policy(tmp_path, LORA, seed=0)
    assert "carry a state" in policy.path.reason
    assert len(Sampler(policy, (END,), PAD).sample([(5, 6)], 3, Sampling(max_tokens=4), generator(0))[0]) == 3


def test_model_without_a_cache_is_not_refused(model_directory: ModelDirectory, tmp_path: Path) -> None:
    """transformers has no cache for some layer types. Training needs none."""
    shutil.copytree(model_directory("llama"), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["layer_types"] = ["heavily_compressed_attention"] * config["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "the fast path fails: KeyError" in load_policy(tmp_path, LORA, seed=0).path.reason


def bart() -> Any:
    """Its layers apply dropout in training mode, in which transformers would checkpoint them."""
    shape: dict[str, Any] = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 48}
    return BartConfig(vocab_size=VOCABULARY, max_position_embeddings=128, dropout=0.5, is_decoder=True, **shape)


def zamba() -> Any:
    """Some of its layers contain another layer."""
    mamba: dict[str, Any] = {"n_mamba_heads": 2, "mamba_d_state": 8, "attn_layer_period": 3, "attn_layer_offset": 2}
    return ZambaConfig(**SIZES | {"num_hidden_layers": 6, "num_key_value_heads": 4}, **mamba)


def modernbert() -> Any:
    """Its output head is called `decoder`."""
    return ModernBertDecoderConfig(**SIZES, cls_token_id=BOS, sep_token_id=END)


@pytest.mark.parametrize(("config", "bound"), [(bart, 1e-5), (zamba, 1e-4), (modernbert, 1e-5)])
def test_gradients_of_unusual_layers(config: Callable[[], Any], bound: float, tmp_path: Path) -> None:
    """The scan of a Mamba layer adds up many terms: its rounding is larger."""
    policy = random_policy(build(tmp_path, "unusual", more={"unusual": config}))
    assert not policy.is_fast
    model = plain.plain_copy(tmp_path, policy)
    batch = pack(plain.examples(GROUPS), CPU)
    found, expected = policy.logprobs(batch, 1.0)[0], plain.logprobs(model, GROUPS, 1.0)
    assert torch.allclose(found, expected, rtol=0, atol=bound)
    # The decoder of BART alone has adapters of its attention to an encoder, too.
    gradients, right = (
        torch.autograd.grad(value.sum(), list(trained.values()), allow_unused=True, materialize_grads=True)
        for value, trained in ((found, policy.trained), (expected, plain.trained(model)))
    )
    for one, other in zip(gradients, right, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=10 * bound)


def test_long_sequence_leaves_the_others_frequencies(model_directory: ModelDirectory) -> None:
    """Packed with a long sequence, a short one would be computed with the factors of long sequences."""
    directory = model_directory("phi3-long")
    groups = random_groups([(5, (5, 4)), (LONG_FACTORS, (12,))])
    batch = pack(plain.examples(groups), CPU)
    policies = {
        length: randomise(load_policy(directory, LORA, seed=0, max_length=length)) for length in (LONG_FACTORS, 128)
    }
    assert policies[LONG_FACTORS].is_fast
    assert f"a sequence of more than {LONG_FACTORS} tokens changes" in policies[128].path.reason
    model = plain.plain_copy(directory, policies[128])
    expected_N = plain.logprobs(model, groups, 1.0)
    wrong, right = (
        float((policy.logprobs(batch, 1.0)[0] - expected_N).detach().abs().max()) for policy in policies.values()
    )
    assert right < 1e-4 < 1e-2 < wrong


def test_frequencies_do_not_depend_on_earlier_sequences(model_directory: ModelDirectory) -> None:
    """Dynamic scaling in transformers keeps the frequencies of the longest sequence that it has seen."""
    directory = model_directory("llama-dynamic")
    policy, fresh = (randomise(load_policy(directory, LORA, seed=0, max_length=128)) for _ in range(2))
    assert f"a sequence of more than {LONG_FACTORS} tokens changes" in policy.path.reason
    long, short = (random_groups([(length, (6,))]) for length in (LONG_FACTORS + 30, LONG_FACTORS + 2))
    with torch.no_grad():
        [_, found] = [policy.logprobs(pack(plain.examples(each), CPU), 1.0)[0] for each in (long, short)]
        expected = fresh.logprobs(pack(plain.examples(short), CPU), 1.0)[0]
    assert torch.equal(found, expected)


@pytest.fixture
def slow_llama(llama: Policy) -> Policy:
    llama.use_plain("for the test")
    return llama


def test_paths_agree(model_directory: ModelDirectory, slow_llama: Policy) -> None:
    """Also with a temperature for each sequence, and a later turn that continues an earlier one."""
    fast = random_policy(model_directory("llama"))
    prompt, turns = (3, 4, 5), ((6, 7, 2), (9, 2))
    later = (*prompt, *turns[0], 8)
    batch = pack([[(prompt, turns[0]), (later, turns[1]), (prompt, (10, 2))], [((11,), (12,))]], CPU)
    found, expected = (one.logprobs(batch, [1.0, 0.5, 1.0, 0.7]) for one in (slow_llama, fast))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=0)


def test_layers_save_their_input_only(slow_llama: Policy) -> None:
    """Gradient checkpointing is on in updates, and dropout and caches are as in evaluation."""
    prompt = tuple(range(3, VOCABULARY)) * 2
    batch = pack([[(prompt, (4, 2))]], CPU)
    kept = 0

    def keep(value: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += value.numel() if value.shape[:2] == (1, len(prompt) + 1) else 0
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        logprobs_N, _ = slow_llama.logprobs(batch, 1.0)
    hidden = slow_llama.causal.config.hidden_size
    assert logprobs_N.requires_grad
    assert kept <= 8 * hidden * (len(prompt) + 1)  # without checkpoints it is 60 times the hidden size
    assert not any(module.training for module in slow_llama.model.modules())


def test_samples_repeat_and_honour_top_p(slow_llama: Policy) -> None:
    sampler = Sampler(slow_llama, (END,), PAD)
    prompts = [(3, 4, 5), (6, 7), (8, 9, 10)]
    sampling = Sampling(max_tokens=5, temperature=1.3)
    seen: list[tuple[int, int]] = []
    first = sampler.sample(prompts, 3, sampling, generator(1), lambda prompt, index, _: seen.append((prompt, index)))
    assert first == sampler.sample(prompts, 3, sampling, generator(1))
    assert first != sampler.sample(prompts, 3, sampling, generator(2))
    assert sorted(seen) == [(prompt, index) for prompt in range(3) for index in range(3)]
    nearly_greedy = sampler.sample(prompts, 1, sampling.model_copy(update={"top_p": 1e-6}), generator(1))
    greedy = sampler.sample(prompts, 1, sampling, None)
    assert [row[0].ids for row in nearly_greedy] == [row[0].ids for row in greedy]
