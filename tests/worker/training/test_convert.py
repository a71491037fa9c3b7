"""Conversion of checkpoints to bf16 safetensors."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests import tiny_model
from tests.worker.training import architectures
from worker.training.base_model import load_base
from worker.training.convert import convert


def test_vision_language_checkpoint_keeps_its_encoder(tmp_path: Path) -> None:
    tokenizer = tiny_model.build(tmp_path / "chat")
    source = architectures.build(tmp_path / "source", "qwen3-vl")
    for path in tokenizer.glob("tokenizer*"):
        (source / path.name).write_bytes(path.read_bytes())
    (source / "preprocessor_config.json").write_text("{}")
    convert(source, tmp_path / "target")
    weights = load_file(tmp_path / "target" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    assert any("visual" in name for name in weights)
    assert (tmp_path / "target" / "preprocessor_config.json").is_file()
    before, _ = load_base(source, torch.device("cpu"), torch.bfloat16, "native")
    after, _ = load_base(tmp_path / "target", torch.device("cpu"), None, "native")
    ids = torch.arange(8)[None] + 3
    assert torch.equal(before(input_ids=ids).logits, after(input_ids=ids).logits)
