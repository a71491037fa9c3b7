"""TRL's DPOTrainer over a plain PEFT model, as the measure of our pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer

from worker.training.types import Prompt


def open_trainer(model: Any, tokenizer: Path, output: Path, beta: float, **options: Any) -> Any:
    """TRL's trainer of a PEFT model; its reference is a copy of the model's current adapter."""
    from trl.trainer.dpo_config import DPOConfig  # noqa: PLC0415 - takes a second, in each process that collects tests
    from trl.trainer.dpo_trainer import DPOTrainer  # noqa: PLC0415

    config = DPOConfig(
        output_dir=str(output),
        beta=beta,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=1,
        **options,
    )
    rows = Dataset.from_list([{"prompt": "1+1=", "chosen": "2", "rejected": "3"}])  # it wants some
    processing: Any = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    trainer: Any = DPOTrainer(model=model, args=config, processing_class=processing, train_dataset=rows)
    trainer.model.train()
    return trainer


def set_adapter(trainer: Any, values: Mapping[str, Tensor]) -> None:
    """Gives the trained adapter these values; the reference keeps its own."""
    with torch.no_grad():
        for name, value in trainer.model.named_parameters():
            if ".default." in name:
                value.copy_(values[name])


def batch(trainer: Any, pairs: list[Prompt]) -> Any:
    """The pairs of a step as TRL's own collator pads them."""
    return trainer.data_collator(
        [
            {
                "prompt_ids": list(better.context),
                "chosen_ids": list(better.ids),
                "rejected_ids": list(worse.ids),
            }
            for better, worse in (prompt.pair for prompt in pairs if prompt.pair is not None)
        ]
    )


def gradients(trainer: Any, loss: Tensor) -> dict[str, Tensor]:
    """d loss / d adapter, by name."""
    trainer.model.zero_grad()
    torch.autograd.backward(loss)
    return {name: value.grad for name, value in trainer.model.named_parameters() if value.grad is not None}
