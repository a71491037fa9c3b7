"""The weights of a base model that a LoRA adapter changes, and the share of all weights that they are.

"all-linear" means the linear layers of the language model and its experts. It leaves out the output head, encoders of
images and sound, which text never reaches, routers, and what PEFT refuses.

Experts are stacked, one parameter [E, O, I] for all. Only `experts.gate_up_proj` and `experts.down_proj` get an
adapter: in this form PEFT (`target_parameters`) and vLLM load it.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping

from app.core.spec.experts import experts_of
from app.core.spec.job import Lora

_ROUTERS: Final = (
    r".*\.router",
    r".*\.router\..*",
    r".*\.(mlp|block_sparse_moe|feed_forward|ffn|moe|mixer)\.gate",
    r".*\.shared_expert_gate",
)
"""Routers of mixtures of experts. Training one without a balancing loss starves experts."""
_INDEXERS: Final = (r".*\.indexer\..*",)
"""What selects the keys of sparse attention: the selection has no gradient."""
_STATE_SPACES: Final = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
"""Model types for which PEFT refuses `out_proj`, whose weight their fused kernels read directly."""
_EXPERTS: Final = re.compile(r"(.*\.)?experts\.(gate_up_proj|down_proj)")
_RENAMED_PAIRS: Final = ("gate_proj", "up_proj", "w1", "w3")
"""Names that PEFT joins in pairs; it refuses one without the other."""


def targets_of(base: Any, lora: Lora) -> dict[str, Any]:
    """Returns the fields of PEFT's `LoraConfig` that select what `lora` adapts in the model `base`."""
    if lora.target_modules != "all-linear":
        return {"target_modules": list(lora.target_modules)}
    excluded = excluded_layers(base)
    if experts_of(base.config.to_dict()) is None:
        return {"target_modules": "all-linear", "exclude_modules": excluded}
    head = base.get_output_embeddings()
    linear = [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not re.fullmatch(excluded or "", name)
    ]
    renamed = _renamed_by_peft(base, {name.rpartition(".")[2] for name in linear})
    modules = [name for name in linear if name.rpartition(".")[2] not in renamed]
    parameters = []
    if not (lora.dropout or lora.use_dora):  # PEFT cannot apply them to a parameter
        parameters = [*_expert_parameters(base)]
        parameters += [f"{name}.weight" for name in linear if name.rpartition(".")[2] in renamed]
    return {
        "target_modules": _suffixes(modules, [name for name, _ in base.named_modules()]),
        "target_parameters": _suffixes(parameters, [name for name, _ in base.named_parameters()]) or None,
    }


def excluded_layers(base: Any) -> str | None:
    """Returns a pattern of the linear layers that "all-linear" leaves out besides the head, or None if there are none.

    Versions of PEFT before 0.14 do not know the field.
    """
    head = base.get_output_embeddings()
    linear = [name for name, each in base.named_modules() if isinstance(each, nn.Linear) and each is not head]
    patterns = [*_ROUTERS, *_INDEXERS]
    decoder = next((name for name, module in base.named_modules() if module is base.get_decoder()), "")
    if decoder and base.get_decoder() is not head:  # ModernBERT names its head so
        patterns.append(rf"(?!{re.escape(decoder)}\.).*")
    if base.config.model_type in _STATE_SPACES:
        patterns.append(r"(.*\.)?out_proj")
    pattern = "|".join(f"({each})" for each in patterns)
    return pattern if any(re.fullmatch(pattern, name) for name in linear) else None


def _expert_parameters(base: Any) -> Iterator[str]:
    """Yields the names of stacked experts whose adapters vLLM applies as PEFT does.

    Llama 4 stores them as [E, I, O] without saying so, and PEFT would put A at their outputs.
    """
    hidden = int(base.config.get_text_config().hidden_size)
    for name, parameter in base.named_parameters():
        if parameter.dim() != 3 or (match := _EXPERTS.fullmatch(name)) is None:
            continue
        is_transposed = getattr(base.get_submodule(name.rpartition(".")[0]), "is_transposed", False)
        inputs, outputs = parameter.shape[1:] if is_transposed else reversed(parameter.shape[1:])
        if (inputs if match[2] == "gate_up_proj" else outputs) == hidden:
            yield name


def _renamed_by_peft(base: Any, leaves: set[str]) -> set[str]:
    """Returns the names of layers that PEFT takes for those of experts, as transformers 4 named them.

    A dense layer or a shared expert of such a name can only be adapted through its parameter.
    """
    config = LoraConfig(target_modules=[*leaves, *_RENAMED_PAIRS])
    convert_peft_config_for_transformers(config, base, get_model_conversion_mapping(base))
    return leaves - set(config.target_modules or ())


def _suffixes(wanted: list[str], every: list[str]) -> list[str]:
    """Returns the ends of the names `wanted`, behind the number of their layer, unless others of `every` end so too."""
    known, short = set(wanted), {name: re.sub(r".*\.\d+\.", "", name) for name in wanted}
    ambiguous = {
        end for end in set(short.values()) for name in every if f".{name}".endswith(f".{end}") and name not in known
    }
    return sorted({name if end in ambiguous else end for name, end in short.items()})


class Coverage(NamedTuple):
    """Shares of weights, from 0 to 1, whose layer carries an adapter."""

    total: float
    """Of all weights of the base model, embeddings and head included."""
    experts: float | None
    """Of the weights of experts; None for a model without experts."""


def adapted_weights(model: PeftModel) -> dict[int, int]:
    """Returns the number of elements of each weight of the base model that `model` adapts, by the weight's id."""
    return {
        id(weight): weight.numel()
        for layer in model.modules()
        if isinstance(layer, LoraLayer)
        for weight in _weights(layer)
        if not weight.requires_grad
    }


def _weights(layer: Any) -> list[nn.Parameter]:
    return [layer.get_param()] if isinstance(layer, ParamWrapper) else list(layer.get_base_layer().parameters())


def coverage(model: PeftModel) -> Coverage:
    """Returns the shares of the base model's weights that `model` adapts."""
    covered = adapted_weights(model)
    trained, total = model.get_nb_trainable_parameters()
    experts = _expert_weights(model)
    of_experts = sum(covered.get(id(weight), 0) for weight in experts) / max(1, sum(map(nn.Parameter.numel, experts)))
    return Coverage(sum(covered.values()) / (total - trained), of_experts if experts else None)


def _expert_weights(model: PeftModel) -> list[nn.Parameter]:
    causal: Any = model.get_base_model()
    experts = experts_of(causal.config.to_dict())
    if experts is None:
        return []
    return [
        value for name, value in model.named_parameters() if not value.requires_grad and experts.owns(name, value.shape)
    ]
