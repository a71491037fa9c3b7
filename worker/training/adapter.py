"""The LoRA adapter of a job: a new one, or one that another job trained."""

import json
import re
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from app.core.spec import warm_start
from app.core.spec.job import Lora
from app.core.spec.reports import TrainerExit
from worker.training.types import JobFailure

_PARAM: Final = "method.hyperparameters.lora"
_ROUTERS: Final = (r".*\.router", r".*\.router\..*", r".*\.(mlp|block_sparse_moe|feed_forward|ffn|moe)\.gate")
"""Routers of mixtures of experts. Training one without a balancing loss starves experts."""
_INDEXERS: Final = (r".*\.indexer\..*",)
"""What selects the keys of sparse attention: the selection has no gradient."""
_STATE_SPACES: Final = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
"""Model types for which PEFT refuses `out_proj`, whose weight their fused kernels read directly."""


def new_adapter(base: Any, lora: Lora, seed: int) -> PeftModel:
    """Returns `base` with a new adapter, whose initial values depend on `seed` only.

    Raises `JobFailure` for target modules that the model lacks.
    """
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        exclude_modules=_excluded(base) if targets == "all-linear" else None,
        task_type="CAUSAL_LM",
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
    )
    torch.manual_seed(seed)
    try:
        # autocast_adapter_dtype keeps the adapter in fp32 on a bf16 base: updates of 1e-5 vanish in bf16.
        model: PeftModel = get_peft_model(base, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise JobFailure(TrainerExit.bad_config, "invalid_lora", str(error), f"{_PARAM}.target_modules") from error
    return model


def _excluded(base: Any) -> str | None:
    """Returns a pattern of the linear layers that "all-linear" leaves out, or None.

    These are encoders of images and sound, which text never reaches, routers, indexers, and what PEFT refuses.
    """
    head = base.get_output_embeddings()  # which PEFT leaves out itself
    linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear) and module is not head]
    patterns = [*_ROUTERS, *_INDEXERS]
    decoder = next((name for name, module in base.named_modules() if module is base.get_decoder()), "")
    if decoder:
        patterns.append(rf"(?!{re.escape(decoder)}\.).*")
    if base.config.model_type in _STATE_SPACES:
        patterns.append(r"(.*\.)?out_proj")
    pattern = "|".join(f"({each})" for each in patterns)
    return pattern if any(re.fullmatch(pattern, name) for name in linear) else None


def coverage(model: PeftModel) -> float:
    """Returns the share of the base model's weights whose layer carries an adapter, embeddings and head included."""
    covered = {
        id(weight): weight.numel()
        for layer in model.modules()
        if isinstance(layer, LoraLayer)
        for weight in layer.get_base_layer().parameters()
        if not weight.requires_grad
    }
    trained, total = model.get_nb_trainable_parameters()
    return sum(covered.values()) / (total - trained)


def load_adapter(base: Any, lora: Lora | None, directory: Path) -> PeftModel:
    """Returns `base` with the adapter of `directory`, and with the dropout of `lora` if that is given.

    Raises `JobFailure` if another setting of `lora` differs from the adapter's.
    """
    config = LoraConfig.from_pretrained(str(directory))
    linear = _all_linear(base)
    if lora is not None:
        stored = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        for field, message in warm_start.differences(lora, warm_start.settings_of(stored)).items():
            raise JobFailure(TrainerExit.bad_config, "invalid_lora", message, f"{_PARAM}.{field}")
        config.lora_dropout = lora.dropout
    model = PeftModel.from_pretrained(
        base, str(directory), is_trainable=True, autocast_adapter_dtype=True, config=config
    )
    if lora is not None and lora.target_modules == "all-linear" and (left_out := linear - _adapted(model)):
        raise JobFailure(
            TrainerExit.bad_config,
            "invalid_lora",
            f"The job's target_modules are 'all-linear', but the adapter to start from leaves out {len(left_out)} "
            f"linear layers, for example {min(left_out)}. Omit the field, or list the adapter's modules.",
            f"{_PARAM}.target_modules",
        )
    return model


def _all_linear(base: Any) -> set[str]:
    """Returns the names of the layers that a new adapter on "all-linear" has."""
    pattern = _excluded(base)
    return {
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not base.get_output_embeddings()
        if pattern is None or not re.fullmatch(pattern, name)
    }


def _adapted(model: PeftModel) -> set[str]:
    causal: Any = model.get_base_model()
    return {name for name, module in causal.named_modules() if isinstance(module, LoraLayer)}
