"""Loading a base model, its adapter and its head; and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.core.spec.job import Lora
from app.core.spec.reports import TrainerExit
from tests.worker.training import plain
from tests.worker.training.architectures import LORA, build, random_policy
from tests.worker.training.conftest import ModelDirectory
from worker.training.batching import pack
from worker.training.model import load_policy
from worker.training.types import JobFailure

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8]])


def test_new_adapter_depends_on_the_seed_only(model_directory: ModelDirectory) -> None:
    directory = model_directory("llama")
    first = load_policy(directory, LORA, seed=1)
    torch.rand(10)
    again, other = load_policy(directory, LORA, seed=1), load_policy(directory, LORA, seed=2)
    assert all(torch.equal(again.trained[name], value) for name, value in first.trained.items())
    assert not all(torch.equal(other.trained[name], value) for name, value in first.trained.items())
    with torch.no_grad():
        base: Any = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
        assert torch.allclose(first.causal(input_ids=IDS).logits, base(input_ids=IDS).logits, atol=1e-5)


def test_only_the_fp32_adapter_is_trained(model_directory: ModelDirectory) -> None:
    policy = load_policy(model_directory("llama"), LORA, seed=0, dtype=torch.bfloat16)
    assert policy.trained
    assert all("lora_" in name and value.dtype == torch.float32 for name, value in policy.trained.items())
    assert policy.head.weight_V_H.dtype == torch.bfloat16
    assert not any("lm_head" in name for name in policy.trained)


def test_model_keeps_its_own_precision(tmp_path: Path) -> None:
    policy = load_policy(build(tmp_path / "bf16", "llama", torch.bfloat16), LORA, seed=0)
    assert policy.head.weight_V_H.dtype == torch.bfloat16
    assert {value.dtype for value in policy.trained.values()} == {torch.float32}


def test_target_modules_are_taken_by_name(model_directory: ModelDirectory) -> None:
    policy = load_policy(model_directory("llama"), Lora(r=2, alpha=4, target_modules=("q_proj", "up_proj")), seed=0)
    assert {name.split(".")[-4] for name in policy.trained} == {"q_proj", "up_proj"}


def test_unknown_target_modules_are_rejected(model_directory: ModelDirectory) -> None:
    with pytest.raises(JobFailure, match="c_attn") as caught:
        load_policy(model_directory("llama"), Lora(target_modules=("c_attn",)), seed=0)
    failure = caught.value
    assert (failure.exit_code, failure.code) == (TrainerExit.bad_config, "invalid_lora")
    assert failure.param == "method.hyperparameters.lora.target_modules"


@pytest.mark.parametrize("lora", [Lora(r=4, alpha=8, use_dora=True), Lora(r=4, alpha=8, use_rslora=True)], ids=repr)
def test_lora_variants_equal_peft(lora: Lora, model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory("llama"), lora)
    model = plain.plain_copy(model_directory("llama"), policy)
    groups = [([5, 6, 7], [[8, 9, 2], [10, 2]]), ([11], [[3]])]
    found_N, expected_N = policy.logprobs(pack(plain.examples(groups), CPU), 0.6)[0], plain.logprobs(model, groups, 0.6)
    assert torch.allclose(found_N, expected_N, atol=1e-5, rtol=0)
    found, expected = plain.gradients(policy.model, found_N.sum()), plain.gradients(model, expected_N.sum())
    assert plain.distance(found, expected) < 1e-5


def test_training_continues_from_an_adapter(model_directory: ModelDirectory, tmp_path: Path) -> None:
    directory = model_directory("llama")
    before = random_policy(directory)
    before.model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    after = load_policy(directory, LORA, seed=9, adapter=tmp_path)
    assert after.trained.keys() == before.trained.keys()
    assert all(torch.equal(after.trained[name], value) for name, value in before.trained.items())
    batch = pack([[((5, 6, 7), (8, 9, 2))]], CPU)
    assert torch.equal(after.logprobs(batch, 1.0)[0], before.logprobs(batch, 1.0)[0])


def test_start_adapter_takes_the_jobs_dropout_only(model_directory: ModelDirectory, tmp_path: Path) -> None:
    """A job's other settings must be those of the adapter; a job without settings takes any adapter."""
    directory = model_directory("llama")
    some = Lora(r=4, alpha=8, target_modules=("q_proj", "v_proj"))
    load_policy(directory, some, seed=0).model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    wanted = some.model_copy(update={"dropout": 0.25})
    [config] = load_policy(directory, wanted, seed=0, adapter=tmp_path).model.peft_config.values()
    assert config.lora_dropout == 0.25  # type: ignore[attr-defined]
    for field, value in (("r", 16), ("target_modules", ("q_proj",)), ("target_modules", "all-linear")):
        with pytest.raises(JobFailure, match="he adapter to start from") as caught:
            load_policy(directory, some.model_copy(update={field: value}), seed=0, adapter=tmp_path)
        assert caught.value.exit_code is TrainerExit.bad_config
        assert caught.value.param == f"method.hyperparameters.lora.{field}"
    assert len(load_policy(directory, None, seed=0, adapter=tmp_path).trained) == 2 * 2 * 2


def test_adapter_on_the_head_is_rejected(model_directory: ModelDirectory) -> None:
    with pytest.raises(JobFailure, match="must stay frozen") as caught:
        load_policy(model_directory("llama"), Lora(r=2, alpha=4, target_modules=("q_proj", "lm_head")), seed=0)
    assert caught.value.code == "trained_head"


def test_fp16_base_trains_in_bf16(tmp_path: Path) -> None:
    policy = load_policy(build(tmp_path / "fp16", "llama", torch.float16), LORA, seed=0)
    dtypes = {value.dtype for value in policy.causal.parameters() if not value.requires_grad}
    assert dtypes == {torch.bfloat16}
    assert policy.trunk.rotary_emb.inv_freq.dtype == torch.float32
    assert policy.notes == ["The base model is stored in fp16 and trains in bf16, because fp16 loses small gradients"]
