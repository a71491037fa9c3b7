"""The frozen base in 4 bits: its gradients, its adapter, and the refusals where 4 bits are not available."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, GptOssConfig

from app.core.models import weights
from app.core.spec.job import Lora
from app.core.spec.reports import Failed, Message, TrainerExit
from tests.worker.training import architectures, plain
from tests.worker.training.architectures import randomise
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.runs import Job, of_kind
from worker.training.batching import pack
from worker.training.lora import fused_layers
from worker.training.merge.model import merge
from worker.training.merge.report import MergeRefused
from worker.training.model import Policy, load_policy
from worker.training.types import JobFailure

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes")

PROMPT = tuple(range(3, 12))
RESPONSES = [(5, 9, 4), (7, 3, 8, 6)]
GROUPS = plain.examples([(PROMPT, RESPONSES)])


def policy_of(directory: Path, lora: Lora = architectures.LORA) -> Policy:
    return randomise(load_policy(directory, lora, seed=0, precision="4bit"))


def dequantised(policy: Policy, source: Path, target: Path) -> Path:
    """The base model of `source` with the values that the 4-bit layers of `policy` stand for."""
    from bitsandbytes.functional import dequantize_4bit  # noqa: PLC0415 - a second of imports

    base: Any = plain.plain_base(source)
    layers = dict(base.named_modules())
    for name, layer in policy.causal.named_modules():
        if name.endswith("base_layer"):
            weight: Any = layer.weight
            values = dequantize_4bit(weight.data, weight.quant_state)
            layers[name.removesuffix(".base_layer")].weight.data.copy_(values)
    base.save_pretrained(target)
    return target


@pytest.mark.parametrize("lora", [architectures.LORA, Lora(r=4, alpha=8, use_dora=True)], ids=["lora", "dora"])
def test_4bit_gradients_equal_dequantised_ones(lora: Lora, tmp_path: Path, model_directory: ModelDirectory) -> None:
    source = model_directory("llama")
    policy = policy_of(source, lora)
    reference = load_policy(dequantised(policy, source, tmp_path / "values"), lora, seed=0)
    with torch.no_grad():
        for name, value in reference.trained.items():
            value.copy_(policy.trained[name])
        policy.logprobs(pack(GROUPS, policy.device), 1.0)  # a pass without gradient comes first
    found, expected = (
        plain.gradients(one.model, one.logprobs(pack(GROUPS, one.device), 1.0)[0].sum()) for one in (policy, reference)
    )
    assert plain.distance(found, expected) < 0.05  # bf16 products against fp32


def test_4bit_base_keeps_fp32_adapter_and_head(model_directory: ModelDirectory) -> None:
    native, policy = load_policy(model_directory("qwen2"), Lora(), seed=0), policy_of(model_directory("qwen2"))
    assert {value.dtype for value in policy.trained.values()} == {torch.float32}
    assert not fused_layers(policy.model)
    kinds = {type(layer).__name__ for name, layer in policy.causal.named_modules() if name.endswith("base_layer")}
    assert kinds == {"Linear4bit"}
    assert type(policy.causal.get_output_embeddings()) is nn.Linear
    assert torch.equal(policy.head.weight_V_H, native.head.weight_V_H)
    assert policy.base_parameters == native.base_parameters
    assert policy.causal.get_memory_footprint() < native.causal.get_memory_footprint()


def test_4bit_run_merges_into_the_full_base(tmp_path: Path, chat_directory: Path) -> None:
    job = Job(tmp_path / "run", chat_directory)
    code, reports = job.run(base_precision="4bit")
    assert code == TrainerExit.succeeded
    assert any("loaded in 4bit" in one.message for one in of_kind(reports, Message))
    merge(job.run_dir / "adapter", chat_directory, tmp_path / "merged", "merged", lambda _line: None)
    policy_of(chat_directory).causal.save_pretrained(tmp_path / "quantised")
    with pytest.raises(MergeRefused, match="is quantised"):
        merge(job.run_dir / "adapter", tmp_path / "quantised", tmp_path / "no", "no", lambda _line: None)


def test_4bit_names_experts_that_it_leaves_out(model_directory: ModelDirectory) -> None:
    policy = policy_of(model_directory("gpt-oss"))
    experts = [value for value in policy.causal.parameters() if value.dim() == 3]
    count, size = sum(map(torch.Tensor.numel, experts)), sum(value.nbytes for value in experts)
    [note] = policy.notes
    assert "quantises linear layers only" in note
    named = int(note.partition("this model, ")[2].partition(" of its")[0].replace(",", ""))
    assert count <= named < 1.1 * count  # with their biases
    assert note.endswith(f"keep float32 and take {size * named / count / 1e9:.3g} GB")


def test_mxfp4_checkpoint_trains_in_bf16(tmp_path: Path, model_directory: ModelDirectory) -> None:
    """A byte of MXFP4 holds two numbers of four bits; 32 of them share the exponent of a scale, with bias 127."""
    source = model_directory("gpt-oss")
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16, "dtype": "bfloat16"}
    model: Any = AutoModelForCausalLM.from_config(GptOssConfig(**config))
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    random = torch.Generator().manual_seed(0)
    for layer in range(2):
        for name, rows in (("gate_up_proj", 128), ("down_proj", 64)):
            key = f"model.layers.{layer}.mlp.experts.{name}"
            del tensors[key]
            tensors[f"{key}_blocks"] = torch.randint(256, (4, rows, 2, 16), dtype=torch.uint8, generator=random)
            tensors[f"{key}_scales"] = torch.full((4, rows, 2), 127 - 4, dtype=torch.uint8)
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})

    policy = load_policy(tmp_path, architectures.LORA, seed=0)
    layer = policy.causal.model.layers[0].mlp.experts.base_layer.base_layer
    byte = int(tensors["model.layers.0.mlp.experts.gate_up_proj_blocks"][1, 5, 1, 3])
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert layer.gate_up_proj.dtype == torch.bfloat16
    assert layer.gate_up_proj[1, 38:40, 5].tolist() == [values[byte & 15] / 16, values[byte >> 4] / 16]
    assert policy.notes == ["The base model is stored in mxfp4 and trains in bf16, which has a backward function"]
    sizes = weights.sizes(tmp_path)
    assert sizes is not None
    frozen = [value for value in policy.causal.parameters() if not value.requires_grad]
    assert (sizes.parameters, sizes.bytes) == (policy.base_parameters, sum(value.nbytes for value in frozen))
    assert sizes.active == policy.active_parameters


def test_device_without_4bit_layers_is_rejected(
    model_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsandbytes.supported_torch_devices", {"cuda"})
    with pytest.raises(JobFailure, match="has no 4-bit layers for devices of type cpu") as caught:
        policy_of(model_directory("llama"))
    assert (caught.value.exit_code, caught.value.code) == (TrainerExit.bad_config, "quantization_unavailable")


def test_missing_bitsandbytes_fails_the_job(
    tmp_path: Path, chat_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what Python does for a package that is not there
    code, reports = Job(tmp_path / "run", chat_directory).run(base_precision="4bit")
    [failed] = of_kind(reports, Failed)
    assert (code, failed.code) == (TrainerExit.bad_config, "quantization_unavailable")
    assert failed.param == "method.gft.hyperparameters.base_precision"
    assert "grouptune[quantized]" in failed.message
