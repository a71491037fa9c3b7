"""Loading the frozen base model, in its own precision or quantised to 4 bits by bitsandbytes (QLoRA)."""

import importlib
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from app.core.spec.job import BasePrecision
from app.core.spec.reports import TrainerExit
from worker.training import attention
from worker.training.types import JobFailure

_PARAM: Final = "method.hyperparameters.base_precision"


def load_base(directory: Path, device: torch.device, dtype: torch.dtype | None, precision: BasePrecision) -> Any:
    """Returns the model of `directory` on `device`, in its own dtype or in `dtype`.

    "4bit" stores the linear layers except the output head as NF4 with double-quantised scales, and computes in bf16
    (Dettmers et al., arXiv 2305.14314). Raises `JobFailure` if this machine cannot do that.
    """
    options: dict[str, Any] = {
        "dtype": dtype or "auto",
        "local_files_only": True,
        "attn_implementation": attention.IMPLEMENTATION,
    }
    if precision == "native":
        native: Any = AutoModelForCausalLM.from_pretrained(directory, **options)
        return native.to(device)
    _check_bitsandbytes(device)
    options["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    try:
        # device_map quantises layer by layer on the device, so the device never holds the whole unquantised model.
        model: Any = AutoModelForCausalLM.from_pretrained(directory, device_map={"": device}, **options)
    except (ImportError, ValueError) as error:  # incompatible versions, or a base model with another quantisation
        raise _unavailable(f"The base model cannot be loaded in 4 bits: {error}") from error
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # bitsandbytes 0.50 would repack the weight in the first pass without gradient. A later pass with gradient
            # would then use a product without a backward function, and lose the layer's gradient silently.
            layer.support_avx512bf16_for_cpu = False
    return model


def _check_bitsandbytes(device: torch.device) -> None:
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise _unavailable(
            "base_precision '4bit' needs bitsandbytes, which the worker does not have: install grouptune[quantized] on "
            "the worker, or omit base_precision."
        ) from error
    if device.type not in bitsandbytes.supported_torch_devices:
        raise _unavailable(
            f"bitsandbytes {bitsandbytes.__version__} has no 4-bit layers for devices of type {device.type}: omit "
            "base_precision."
        )


def _unavailable(message: str) -> JobFailure:
    return JobFailure(TrainerExit.bad_config, "quantization_unavailable", message, _PARAM)
