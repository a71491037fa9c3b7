"""Adapters of every kind that jobs produce, as directories, and the same model computed by PEFT."""

from pathlib import Path
from typing import Any, Final

from peft import PeftModel

from app.core.spec.job import Lora
from tests.worker.training import plain
from tests.worker.training.architectures import random_policy, randomise
from worker.training.export import save_adapter
from worker.training.model import load_policy

LORAS: Final = {
    "plain": Lora(r=4, alpha=8),
    "rslora": Lora(r=3, alpha=5, use_rslora=True),
    "dora": Lora(r=2, alpha=4, use_dora=True),
}


def write_adapter(directory: Path, base: Path, lora: Lora, seed: int = 5) -> Path:
    """Write an adapter with random values, as a job exports it."""
    return save_adapter(directory, randomise(load_policy(base, lora, seed=0), seed), base.name)


def peft_model(base: Path, adapter: Path | None) -> Any:
    """Return the base model with the adapter, by transformers and PEFT alone."""
    model = plain.plain_base(base)
    return model if adapter is None else PeftModel.from_pretrained(model, str(adapter)).eval()


__all__ = ["LORAS", "peft_model", "random_policy", "write_adapter"]
