"""The model families that can be written as GGUF, and how llama.cpp expects each of them."""

from dataclasses import dataclass
from typing import Any, Final

from gguf import MODEL_ARCH

from app.core.spec.export import ExportRefused


@dataclass(frozen=True)
class Family:
    """What distinguishes a family's weights in GGUF from those in transformers."""

    architecture: MODEL_ARCH
    permutes_heads: bool = False
    """Whether the rows of q and k are reordered within a head: llama.cpp rotates neighbouring rows in these families,
    transformers rotates the first half with the second."""
    norm_offset: float = 0.0
    """Added to the weights of norms: Gemma multiplies by 1 + w, llama.cpp by the stored number."""
    activation: str = "silu"
    full_attention_every: int = 1
    """Every n-th layer attends to the whole context, the others to a window. llama.cpp has this number in its code."""


FAMILIES: Final = {
    "LlamaForCausalLM": Family(MODEL_ARCH.LLAMA, permutes_heads=True),
    "SmolLM3ForCausalLM": Family(MODEL_ARCH.SMOLLM3, permutes_heads=True),
    "Qwen2ForCausalLM": Family(MODEL_ARCH.QWEN2),
    "Qwen3ForCausalLM": Family(MODEL_ARCH.QWEN3),
    "GemmaForCausalLM": Family(MODEL_ARCH.GEMMA, norm_offset=1.0, activation="gelu_pytorch_tanh"),
    "Gemma2ForCausalLM": Family(
        MODEL_ARCH.GEMMA2, norm_offset=1.0, activation="gelu_pytorch_tanh", full_attention_every=2
    ),
    "Gemma3ForCausalLM": Family(
        MODEL_ARCH.GEMMA3, norm_offset=1.0, activation="gelu_pytorch_tanh", full_attention_every=6
    ),
}
"""By the name in `architectures` of config.json."""


def family_of(config: Any) -> Family:
    """Return the family of a transformers config. Raises `ExportRefused` for one that llama.cpp would run differently.

    A family alone is not enough: some settings of a config have no counterpart in GGUF.
    """
    name = next(iter(config.architectures or ()), "unknown")
    family = FAMILIES.get(name)
    if family is None:
        raise ExportRefused(
            "export_unsupported_architecture",
            f"Models of type {name} cannot be exported as GGUF. Supported types: {', '.join(sorted(FAMILIES))}. "
            "Export the model as `merged` instead.",
        )
    if found := _unsupported(config, family):
        raise ExportRefused(
            "export_unsupported_architecture",
            f"This {name} cannot be exported as GGUF: llama.cpp has no {found}. Export the model as `merged` instead.",
        )
    return family


def _unsupported(config: Any, family: Family) -> str | None:
    """Return the first setting that llama.cpp cannot represent for this family."""
    if getattr(config, "quantization_config", None):
        return "support for its quantised weights"
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if activation != family.activation:
        return f"activation {activation} in this family"
    layers = range(config.num_hidden_layers)
    every = family.full_attention_every
    kinds = getattr(config, "layer_types", None) or ["full_attention" for _ in layers]
    if kinds != ["sliding_attention" if (i + 1) % every else "full_attention" for i in layers]:
        return "such sequence of sliding and full attention in this family"
    if getattr(config, "use_bidirectional_attention", None):
        return "bidirectional attention in this family"
    rotated = getattr(config, "no_rope_layers", None)
    if rotated and rotated != [int((i + 1) % 4 != 0) for i in layers]:
        return "other layers without position embeddings than every fourth"
    rope = full_attention_rope(config)["rope_type"]
    return None if rope in ("default", "linear", "llama3", "yarn") else f"rope scaling of type {rope} in this family"


def full_attention_rope(config: Any) -> dict[str, Any]:
    """Return the rope parameters of the layers with full attention."""
    parameters: dict[str, Any] = config.rope_parameters
    found: dict[str, Any] = parameters.get("full_attention", parameters)
    return found


def head_size(config: Any) -> int:
    """Return the number of rows of q for one head."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(size)
