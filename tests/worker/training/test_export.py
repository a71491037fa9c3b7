"""The published adapter, loaded without Grouptune."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from app.core.spec.job import Lora
from tests.worker.training import plain
from tests.worker.training.architectures import random_policy
from tests.worker.training.conftest import ModelDirectory
from tests.worker.training.runs import Job
from worker.training.export import export_adapter
from worker.training.model import Policy

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def export(policy: Policy, tmp_path: Path) -> Path:
    spec = Job(tmp_path / "run", tmp_path / "tiny-1B", "gft").write()
    return export_adapter(tmp_path / "adapter", policy, spec)


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
