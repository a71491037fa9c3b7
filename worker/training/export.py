"""Adapter export in PEFT's file format, loadable with plain `PeftModel.from_pretrained`, with a model card."""

from pathlib import Path

from app.core.spec.job import TrainerSpec
from worker.training.model import Policy

_CARD = """---
base_model: {base}
library_name: peft
tags: [grouptune, lora, {method}]
---
# {job}

A LoRA adapter for `{base}`, trained by Grouptune with method `{method}`
for {steps} optimiser steps (seed {seed}).

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("path/to/{base}"), "path/to/this/directory")
```
"""


def export_adapter(directory: Path, policy: Policy, trainer_spec: TrainerSpec) -> Path:
    """Writes the adapter and a model card (README.md) into `directory` and returns it."""
    base_name = Path(trainer_spec.base_model_dir).name
    save_adapter(directory, policy, base_name)
    spec = trainer_spec.spec
    card = _CARD.format(
        base=base_name, job=trainer_spec.job_id, method=spec.method, steps=policy.version, seed=spec.seed
    )
    (directory / "README.md").write_text(card, encoding="utf-8")
    return directory


def save_adapter(directory: Path, policy: Policy, base_name: str) -> Path:
    """Writes adapter_model.safetensors, adapter_config.json and PEFT's own model card into `directory`."""
    # Store the base model's name: its path on the training machine means nothing elsewhere.
    policy.model.peft_config["default"].base_model_name_or_path = base_name
    # save_embedding_layers=False, because "auto" queries the Hugging Face Hub for a repository of that name.
    policy.model.save_pretrained(str(directory), safe_serialization=True, save_embedding_layers=False)
    return directory
