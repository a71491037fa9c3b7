"""Adapter export in PEFT's file format, loadable with plain `PeftModel.from_pretrained`, with a model card."""

import dataclasses
import json
from pathlib import Path
from typing import Final

from peft import LoraConfig

from app.core.spec.job import TrainerSpec
from worker.training.base_model import class_of
from worker.training.model import Policy

_CARD: Final = """---
base_model: {base}
base_model_relation: adapter
library_name: peft
pipeline_tag: text-generation
tags: [grouptune, lora, {method}]
---
# {job}

A LoRA adapter for `{base}`{revision}, trained by Grouptune with method `{method}`
for {steps} optimiser steps (seed {seed}).

{loading}
"""
_FROM_HUB: Final = """```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/directory")  # downloads the base model, too
```"""
_WITH_BASE: Final = """```python
from peft import PeftModel
from transformers import {loader}

model = PeftModel.from_pretrained({loader}.from_pretrained("{base}"), "path/to/this/directory")
```"""
_FROM_DIRECTORY: Final = """The base model is not known to be on the Hugging Face hub, so you need its files:

{with_base}"""
_WORKING_DIRECTORY: Final = """

`AutoPeftModelForCausalLM` finds the base model if the working directory contains it under the name `{base}`."""

_PEFT_0_9: Final = (
    "alpha_pattern auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights "
    "layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout megatron_config megatron_core "
    "modules_to_save peft_type r rank_pattern revision target_modules task_type use_dora use_rslora"
)
"""The fields of PEFT 0.9's LoraConfig. Old versions of PEFT refuse a config with a field that they do not know."""


def export_adapter(directory: Path, policy: Policy, trainer_spec: TrainerSpec) -> Path:
    """Writes the adapter and a model card (README.md) into `directory` and returns it.

    The adapter names its base model by hub id and commit. A base model without a hub id is named by its directory: a
    path of this machine would mean nothing elsewhere.
    """
    base = trainer_spec.base_hub_id or Path(trainer_spec.base_model_dir).name
    revision = trainer_spec.base_revision
    save_adapter(directory, policy, base, revision)
    spec = trainer_spec.spec
    card = _CARD.format(
        base=base,
        revision=f" at revision `{revision}`" if revision else "",
        job=trainer_spec.job_id,
        method=spec.method,
        steps=policy.version,
        seed=spec.seed,
        loading=_loading(policy, base, is_on_hub=trainer_spec.base_hub_id is not None),
    )
    (directory / "README.md").write_text(card, encoding="utf-8")
    return directory


def _loading(policy: Policy, base: str, *, is_on_hub: bool) -> str:
    """Returns how to load the adapter, for the card."""
    loader = class_of(policy.causal.config).__name__
    # PEFT's automatic class loads causal language models only, not those with encoders.
    is_automatic = loader == "AutoModelForCausalLM"
    if is_on_hub:
        return _FROM_HUB if is_automatic else _WITH_BASE.format(loader=loader, base=base)
    with_base = _WITH_BASE.format(loader=loader, base=f"path/to/{base}")
    return _FROM_DIRECTORY.format(with_base=with_base) + (_WORKING_DIRECTORY.format(base=base) if is_automatic else "")


def save_adapter(directory: Path, policy: Policy, base: str, revision: str | None = None) -> Path:
    """Writes adapter_model.safetensors, adapter_config.json and PEFT's own model card into `directory`."""
    config = policy.model.peft_config["default"]
    config.base_model_name_or_path, config.revision = base, revision
    # save_embedding_layers=False, because "auto" queries the Hugging Face Hub for a repository of that name.
    # Only the trained weights: the state dict of a sharded base would be one of slices.
    policy.model.save_pretrained(
        str(directory), safe_serialization=True, save_embedding_layers=False, state_dict=dict(policy.trained)
    )
    _drop_new_defaults(directory / "adapter_config.json")
    return directory


def _drop_new_defaults(path: Path) -> None:
    """Removes the fields that PEFT 0.9 does not know, unless they change the adapter."""
    written = json.loads(path.read_text(encoding="utf-8"))
    known, defaults = _PEFT_0_9.split(), dataclasses.asdict(LoraConfig())
    kept = {
        name: value
        for name, value in written.items()
        if name in known or (name != "peft_version" and value != defaults.get(name))
    }
    path.write_text(json.dumps(kept, indent=2, sort_keys=True), encoding="utf-8")
