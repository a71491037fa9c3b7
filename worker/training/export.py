"""The adapter as files in PEFT's own format, loadable by plain `PeftModel.from_pretrained`; published with a card."""

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


def export_adapter(directory: Path, policy: Policy, plan: TrainerSpec, base_name: str) -> Path:
    """Writes the adapter and a model card, README.md, into `directory`."""
    save_adapter(directory, policy, base_name)
    card = _CARD.format(
        base=base_name, job=plan.job_id, method=plan.spec.method, steps=policy.version, seed=plan.spec.seed
    )
    (directory / "README.md").write_text(card, encoding="utf-8")
    return directory


def save_adapter(directory: Path, policy: Policy, base_name: str) -> Path:
    """Writes adapter_model.safetensors and adapter_config.json into `directory`, beside a card of PEFT's."""
    # The path on the training machine means nothing elsewhere; the base model's name does.
    policy.model.peft_config["default"].base_model_name_or_path = base_name
    # save_embedding_layers=False: "auto" would ask the Hugging Face Hub for a repository of that name.
    policy.model.save_pretrained(str(directory), safe_serialization=True, save_embedding_layers=False)
    return directory
