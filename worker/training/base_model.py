"""Loading the frozen base model, in its own precision or quantised to 4 bits by bitsandbytes (QLoRA)."""

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from app.core.spec.experts import experts_of
from app.core.spec.job import BasePrecision
from app.core.spec.reports import TrainerExit
from worker.training.distributed import PeerLost
from worker.training.failures import diagnose
from worker.training.types import JobFailure

_PARAM: Final = "method.hyperparameters.base_precision"
_DEQUANTISED: Final = ("mxfp4", "fp8")
"""Formats of checkpoints that are loaded in bf16."""


@contextmanager
def unsupported_on_error(directory: Path) -> Iterator[None]:
    """Turns any error of loading or checking a model into the job failure `unsupported_architecture`.

    Leaves job failures, and errors of the machine: memory, storage, a broken GPU.
    """
    try:
        yield
    except (JobFailure, PeerLost, OSError, SafetensorError):
        raise
    except Exception as error:
        if diagnose(error) is not None:
            raise
        detail = str(error).partition("\n")[0] if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise JobFailure(
            TrainerExit.bad_config,
            "unsupported_architecture",
            f"This model is not supported because {_reason(directory, detail)} Choose another model.",
            "model",
        ) from error


def _reason(directory: Path, detail: str) -> str:
    try:
        kind = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError):
        kind = None
    return f"training a model of type '{kind}' fails: {detail.rstrip('.')}."


def model_class(directory: Path) -> Any:
    """Returns the auto class that loads the language model of `directory`, with its encoders if it has any."""
    return class_of(AutoConfig.from_pretrained(directory, local_files_only=True))


def class_of(config: Any) -> Any:
    """Returns the auto class that loads models with this config."""
    kind = type(config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def load_base(
    directory: Path, device: torch.device, dtype: torch.dtype | None, precision: BasePrecision
) -> tuple[Any, list[str]]:
    """Returns the model of `directory` on `device`, in its own dtype or in `dtype`, and sentences on what was changed.

    fp16 becomes bf16: gradients of a mean over many tokens are below the smallest numbers of fp16. MXFP4 and FP8 become
    bf16, too: their kernels have no backward function.

    "4bit" stores the linear layers except the output head as NF4 with double-quantised scales, and computes in bf16
    (Dettmers et al., arXiv 2305.14314). Raises `JobFailure` if this machine cannot do that.
    """
    config: Any = AutoConfig.from_pretrained(directory, local_files_only=True)
    options: dict[str, Any] = {
        "dtype": dtype or "auto",
        "local_files_only": True,
        "config": config,
    }
    loader = class_of(config)
    if precision == "native":
        stored: dict[str, Any] = getattr(config, "quantization_config", None) or {}
        if stored.get("quant_method") in _DEQUANTISED:
            stored["dequantize"] = True
        native: Any = loader.from_pretrained(directory, **options)
        return native.to(device), [*_dequantised(stored), *_without_fp16(native)]
    _check_bitsandbytes(device)
    options["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    try:
        # device_map quantises layer by layer on the device, so the device never holds the whole unquantised model.
        model: Any = loader.from_pretrained(directory, device_map={"": device}, **options)
    except (ImportError, ValueError) as error:  # incompatible versions, or a base model with another quantisation
        raise _unavailable(f"The base model cannot be loaded in 4 bits: {error}") from error
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # bitsandbytes 0.50 would repack the weight in the first pass without gradient. A later pass with gradient
            # would then use a product without a backward function, and lose the layer's gradient silently.
            layer.support_avx512bf16_for_cpu = False
    return model, [*_without_fp16(model), *_unquantised_experts(model)]


def _dequantised(stored: Mapping[str, Any]) -> list[str]:
    if not stored.get("dequantize"):
        return []
    return [f"The base model is stored in {stored['quant_method']} and trains in bf16, which has a backward function"]


def _unquantised_experts(model: Any) -> list[str]:
    """Returns a sentence on the experts that 4 bits leave out: bitsandbytes quantises linear layers only."""
    experts = experts_of(model.config.to_dict())
    if experts is None:
        return []
    owned = {name: value for name, value in model.named_parameters() if experts.owns(name, value.shape)}
    left_out = [value for value in owned.values() if value.dtype not in (torch.uint8, torch.int8)]
    count = sum(value.numel() for value in left_out)
    # Biases of quantised experts are no reason for a message.
    if not any(value.dim() > 2 for value in left_out):
        return []
    size = sum(value.nbytes for value in left_out)
    return [
        f"base_precision '4bit' quantises linear layers only: the experts of this model, {count:,} of its "
        f"{model.num_parameters():,} parameters, keep {str(left_out[0].dtype).removeprefix('torch.')} and take "
        f"{size / 1e9:.3g} GB"
    ]


def _without_fp16(model: Any) -> list[str]:
    """Converts fp16 weights to bf16 in place."""
    half = [value for value in (*model.parameters(), *model.buffers()) if value.dtype == torch.float16]
    if not half:
        return []
    for value in half:
        value.data = value.data.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    return ["The base model is stored in fp16 and trains in bf16, because fp16 loses small gradients"]


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
