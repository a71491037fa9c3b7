"""The model card of a pushed model."""

from pathlib import Path

import pytest

from app.core.spec.export import ExportFormat, ExportSpec
from tests.worker.training import architectures
from worker.exporting.card import card


@pytest.mark.parametrize("merged", [False, True])
def test_card_loads_a_vision_language_model(merged: bool, tmp_path: Path) -> None:
    config = architectures.VISION_LANGUAGE["qwen2.5-vl"]()
    config.save_pretrained(tmp_path)
    spec = ExportSpec(
        model="ft:vl:mine",
        base_name="vl",
        base_dir=tmp_path,
        base_hub_id="org/vl",
        base_revision=None,
        adapter_dir=tmp_path,
        format=ExportFormat.push,
        quantization=None,
        probe=None,
        repository="me/vl",
        merged=merged,
    )
    text = card(spec, None)
    assert f'AutoModelForImageTextToText.from_pretrained("{"me/vl" if merged else "org/vl"}", dtype="auto")' in text
    assert "AutoModelForCausalLM" not in text
