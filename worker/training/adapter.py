"""The LoRA adapter of a job: a new one, or one that another job trained."""

import json
import re
import warnings
from contextlib import AbstractContextManager
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
from worker.training.lora_targets import excluded_layers, targets_of
from worker.training.types import JobFailure

_PARAM: Final = "method.hyperparameters.lora"


def new_adapter(base: Any, lora: Lora, seed: int) -> PeftModel:
    """Returns `base` with a new adapter, whose initial values depend on `seed` only.

    Raises `JobFailure` for target modules that the model lacks.
    """
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        **targets_of(base, lora),
        task_type="CAUSAL_LM",
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
    )
    torch.manual_seed(seed)
    try:
        # autocast_adapter_dtype keeps the adapter in fp32 on a bf16 base: updates of 1e-5 vanish in bf16.
        with _without_deprecations():
            model: PeftModel = get_peft_model(base, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise JobFailure(TrainerExit.bad_config, "invalid_lora", str(error), f"{_PARAM}.target_modules") from error
    return model


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
        if lora.dropout and config.target_parameters:
            raise JobFailure(
                TrainerExit.bad_config,
                "invalid_lora",
                "The adapter to start from changes experts, and dropout does not work on them. Omit the field.",
                f"{_PARAM}.dropout",
            )
        config.lora_dropout = lora.dropout
    with _without_deprecations():
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


def _without_deprecations() -> AbstractContextManager[object]:
    """Keeps a warning that no user can act on out of the trainer's log.

    peft 0.21 reads `is_gradient_checkpointing`, which transformers 5 deprecates. Remove with the release that fixes it.
    """
    return warnings.catch_warnings(action="ignore", category=FutureWarning)


def _all_linear(base: Any) -> set[str]:
    """Returns the names of the layers that a new adapter on "all-linear" has."""
    pattern = excluded_layers(base)
    return {
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not base.get_output_embeddings()
        if pattern is None or not re.fullmatch(pattern, name)
    }


def _adapted(model: PeftModel) -> set[str]:
    causal: Any = model.get_base_model()
    return {name for name, module in causal.named_modules() if isinstance(module, LoraLayer)}
