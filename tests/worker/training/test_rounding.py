"""The load checks of trainer and engine on a bf16 model of 30 layers, whose rounding is that of SmolLM2.

In bf16, two orders of the same sums differ by about 0.1 nats after 30 layers. The checks must accept that, and
still see an attention that ignores the window.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig

from tests.worker.training import architectures
from tests.worker.training.architectures import LORA, SIZES, WINDOW
from tests.worker.training.test_self_check import ReplaceAttention, replace_attention
from worker.serving.base import NotPacked, ServedBase
from worker.training import attention
from worker.training.model import load_policy

__all__ = ["replace_attention"]

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = SIZES | {"num_hidden_layers": 30, "sliding_window": WINDOW, "initializer_range": 0.2}
    configs = {"deep": lambda: MistralConfig(**sizes)}
    return architectures.build(tmp_path_factory.mktemp("deep"), "deep", torch.bfloat16, configs)


def without_window(*arguments: Any, **options: Any) -> Any:
    return attention.attend(*arguments, **(options | {"sliding_window": None}))


def test_trainer_accepts_rounding_only(deep: Path, replace_attention: ReplaceAttention) -> None:
    policy = load_policy(deep, LORA, seed=0)
    assert policy.causal.dtype == torch.bfloat16
    assert policy.is_fast, policy.path.reason
    replace_attention(without_window)
    assert load_policy(deep, LORA, seed=0).path.reason.startswith("log-probabilities of the fast path differ by ")


def test_engine_accepts_rounding_only(deep: Path, replace_attention: ReplaceAttention) -> None:
    """All layers are replaced, so their own arithmetic is checked, too."""
    assert ServedBase.load("deep", deep, CPU).short_layers == 30
    replace_attention(without_window)
    with pytest.raises(NotPacked, match="log-probabilities differ by"):
        ServedBase.load("deep", deep, CPU)
