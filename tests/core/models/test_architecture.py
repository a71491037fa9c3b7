"""Base models that no job can train, by their config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import InvalidRequest
from app.core.jobs.submission import check_architecture
from app.core.models.architecture import unsupported_reason


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, None),
        ({"architectures": ["GPT2LMHeadModel"]}, None),
        ({"architectures": ["Qwen2_5_VLForConditionalGeneration"]}, None),
        ({}, None),
        ({"architectures": ["BertForMaskedLM"]}, "its architecture, BertForMaskedLM, has no causal"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "has no causal language model head"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "it is an encoder-decoder"),
    ],
)
def test_config_without_causal_head_is_refused(tmp_path: Path, config: dict[str, Any], reason: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if reason is None:
        check_architecture(tmp_path)
        return
    with pytest.raises(InvalidRequest, match="This model is not supported because ") as caught:
        check_architecture(tmp_path)
    assert reason in caught.value.message
    assert (caught.value.code, caught.value.param) == ("unsupported_architecture", "model")


def test_diffusion_and_absent_models(tmp_path: Path) -> None:
    assert unsupported_reason(tmp_path) is None
    (tmp_path / "model_index.json").write_text("{}")
    assert "diffusion" in str(unsupported_reason(tmp_path))
