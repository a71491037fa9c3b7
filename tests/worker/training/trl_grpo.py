"""TRL's GRPOTrainer over a plain PEFT model, as the measure of our reinforcement steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer

from worker.training.types import GroupMember, PromptGroup


def open_trainer(model: Any, tokenizer: Path, output: Path, rewards: Sequence[float], **options: Any) -> Any:
    """TRL's trainer of a PEFT model; its reward function returns `rewards` in turn."""
    from trl.trainer.grpo_config import GRPOConfig  # noqa: PLC0415 - takes a second, in each process that collects
    from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: PLC0415

    config = GRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        num_generations=len(rewards),
        per_device_train_batch_size=len(rewards),
        **options,
    )
    processing: Any = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)

    def reward(**_: Any) -> list[float | None]:
        return list(rewards)

    trainer: Any = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        processing_class=processing,
        train_dataset=Dataset.from_list([{"prompt": "1+1="}]),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def advantages(trainer: Any) -> list[float]:
    """The advantages of rollouts that TRL samples and grades."""
    batch = trainer._generate_and_score_completions([{"prompt": "1+1="}] * trainer.num_generations)
    found: list[float] = batch["advantages"].tolist()
    return found


def _padded(rows: Sequence[Sequence[float]], dtype: torch.dtype, *, left: bool = False) -> Tensor:
    width = max(map(len, rows))
    filled = [[0] * (width - len(row)) + list(row) if left else list(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(filled, dtype=dtype)


def batch(groups: Sequence[PromptGroup], importance: Sequence[Sequence[float]] | None = None) -> dict[str, Tensor]:
    """A step as TRL's loss reads it; the log-probabilities of the sampling policy are `trainer_logprobs`."""
    pairs: list[tuple[tuple[int, ...], GroupMember]] = [
        (group.prompt.ids, member) for group in groups for member in group.members
    ]
    mask = _padded([[1] * len(member.ids) for _, member in pairs], torch.long)
    inputs = {
        "prompt_ids": _padded([prompt for prompt, _ in pairs], torch.long, left=True),
        "prompt_mask": _padded([[1] * len(prompt) for prompt, _ in pairs], torch.long, left=True),
        "completion_ids": _padded([member.ids for _, member in pairs], torch.long),
        "completion_mask": mask,
        "advantages": torch.tensor([member.advantage for _, member in pairs]),
        "old_per_token_logps": _padded([member.trainer_logprobs for _, member in pairs], torch.float32),
        "num_items_in_batch": mask.sum(),
    }
    if importance is not None:
        inputs["importance_sampling_ratio"] = _padded(importance, torch.float32)
    return inputs


def gradients(trainer: Any, loss: Tensor) -> dict[str, Tensor]:
    """d loss / d adapter, by name."""
    trainer.model.zero_grad()
    torch.autograd.backward(loss)
    return {name: value.grad for name, value in trainer.model.named_parameters() if value.grad is not None}


def set_adapter(trainer: Any, values: Mapping[str, Tensor]) -> None:
    """Gives the trained adapter these values."""
    with torch.no_grad():
        for name, value in trainer.model.named_parameters():
            if ".default." in name:
                value.copy_(values[name])
