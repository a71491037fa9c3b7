"""The published adapter, loaded without Grouptune."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from app.core.spec.job import Lora
from tests.hub_server import COMMIT, hub_server
from tests.worker.training import plain
from tests.worker.training.architectures import random_policy
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.runs import Job
from worker.training.export import export_adapter
from worker.training.model import Policy

CONFIG = "adapter_config.json"
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


OF_PEFT_0_9 = """peft_type auto_mapping base_model_name_or_path revision task_type inference_mode r target_modules
    lora_alpha lora_dropout fan_in_fan_out bias use_rslora modules_to_save init_lora_weights layers_to_transform
    layers_pattern rank_pattern alpha_pattern megatron_config megatron_core loftq_config use_dora"""
"""The fields of the dataclasses in peft/config.py and peft/tuners/lora/config.py of the wheel peft 0.9.0."""
AUTO = """
import sys, torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1])
print(model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10]])).logits.double().sum().item())
"""


def export(policy: Policy, tmp_path: Path, **base: str) -> Path:
    spec = Job(tmp_path / "run", tmp_path / "tiny-1B", "gft", trainer=base).write()
    return export_adapter(tmp_path / "adapter", policy, spec)


def auto_loaded(adapter: Path, directory: Path, **environment: str) -> float:
    """The sum of the logits of a model that PEFT loads with its base, in a process of its own in `directory`."""
    done = subprocess.run(
        [sys.executable, "-c", AUTO, str(adapter)],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def logits_sum(policy: Policy) -> float:
    with torch.no_grad():
        return float(policy.causal(input_ids=IDS).logits.double().sum())


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_plain_peft_gives_the_same_logits(name: str, tmp_path: Path, model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory(name))
    base = plain.plain_base(model_directory(name))
    without = base(input_ids=IDS).logits.detach()
    loaded = PeftModel.from_pretrained(base, str(export(policy, tmp_path)))
    with torch.no_grad():
        found, expected = loaded(input_ids=IDS).logits, policy.causal(input_ids=IDS).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, without, atol=0.1)


def test_merged_adapter_gives_the_same_logits(llama: Policy, tmp_path: Path, model_directory: ModelDirectory) -> None:
    base = plain.plain_base(model_directory("llama"))
    loaded: PeftModel = PeftModel.from_pretrained(base, str(export(llama, tmp_path)))
    merged = loaded.merge_and_unload()
    with torch.no_grad():
        expected = llama.causal(input_ids=IDS).logits
        assert torch.allclose(merged(input_ids=IDS).logits, expected, atol=1e-4)


def test_weights_are_fp32_on_a_bf16_base_too(tmp_path: Path, model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory("llama"), dtype=torch.bfloat16)
    weights = load_file(export(policy, tmp_path) / "adapter_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert len(weights) == len(policy.trained)


def test_export_contains_no_local_path(llama: Policy, tmp_path: Path) -> None:
    adapter = export(llama, tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-1B"
    assert sorted(path.name for path in adapter.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    for name in ("README.md", "adapter_config.json"):
        assert str(tmp_path) not in (adapter / name).read_text()
    card = (adapter / "README.md").read_text()
    assert "base_model: tiny-1B" in card
    assert "gft" in card


def test_export_sends_no_network_request(
    tmp_path: Path, model_directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"looked for {address}")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    export(random_policy(model_directory("llama"), Lora(r=2, alpha=4)), tmp_path)


def test_adapter_names_its_base_on_the_hub(llama: Policy, tmp_path: Path) -> None:
    adapter = export(llama, tmp_path, base_hub_id="org/tiny", base_revision=COMMIT)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", COMMIT)
    card = (adapter / "README.md").read_text()
    assert "base_model: org/tiny\n" in card
    assert COMMIT in card
    assert 'AutoPeftModelForCausalLM.from_pretrained("path/to/this/directory")' in card


def test_auto_model_finds_its_base_on_the_hub(tmp_path: Path, model_directory: ModelDirectory) -> None:
    policy = random_policy(model_directory("llama"))
    adapter = export(policy, tmp_path, base_hub_id="org/tiny", base_revision=COMMIT)
    files = {path.name: path.read_bytes() for path in model_directory("llama").iterdir() if path.is_file()}
    with hub_server({}, {"org/tiny": files}) as url:
        found = auto_loaded(adapter, tmp_path, HF_ENDPOINT=url, HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="0")
    assert found == pytest.approx(logits_sum(policy), abs=1e-3)


def test_auto_model_finds_a_base_next_to_it(tmp_path: Path, model_directory: ModelDirectory) -> None:
    """A base without a hub id is named by its directory, so it is found where that directory is."""
    policy = random_policy(model_directory("llama"))
    (tmp_path / "tiny-1B").symlink_to(model_directory("llama"))
    assert auto_loaded(export(policy, tmp_path), tmp_path) == pytest.approx(logits_sum(policy), abs=1e-3)


@pytest.mark.parametrize("lora", [Lora(r=2, alpha=4), Lora(r=2, alpha=4, use_dora=True, use_rslora=True, dropout=0.1)])
def test_config_loads_in_old_peft(tmp_path: Path, model_directory: ModelDirectory, lora: Lora) -> None:
    config = json.loads((export(random_policy(model_directory("llama"), lora), tmp_path) / CONFIG).read_text())
    assert set(config) <= set(OF_PEFT_0_9.split())
    assert (config["r"], config["lora_alpha"], config["use_dora"]) == (2, 4, lora.use_dora)
    assert config["peft_type"] == "LORA"


@pytest.mark.parametrize("hub_id", ["", "org/tiny"])
def test_card_loads_a_vision_language_base(hub_id: str, model_directory: ModelDirectory, tmp_path: Path) -> None:
    known = {"base_hub_id": hub_id} if hub_id else {}
    adapter = export(random_policy(model_directory("qwen2.5-vl")), tmp_path, **known)
    card = (adapter / "README.md").read_text()
    assert f'AutoModelForImageTextToText.from_pretrained("{hub_id or "path/to/tiny-1B"}")' in card
    assert "AutoPeftModelForCausalLM" not in card
