"""The model families of docs/models.md: a tiny random model of each, and the table."""

from dataclasses import dataclass
from typing import Any, Final

from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma4TextConfig,
    Glm4Config,
    Glm4MoeConfig,
    LlamaConfig,
    Ministral3Config,
    MinistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from tests.worker.training.architectures import (
    EXPERTS,
    HEADS,
    LATENT_ATTENTION,
    LAYERS,
    SIZES,
    WINDOW,
    Configs,
)
from worker.training.lora_targets import adapted_weights

MORE: Final[Configs] = {
    "llama3": lambda: LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "qwen3-moe": lambda: Qwen3MoeConfig(**HEADS, **EXPERTS, num_experts=4, mlp_only_layers=[0]),
    "ministral": lambda: MinistralConfig(**HEADS, sliding_window=WINDOW, layer_types=LAYERS),
    "ministral3": lambda: Ministral3Config(
        **HEADS,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.5,
        },
    ),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "gemma4": lambda: Gemma4TextConfig(
        **HEADS,
        sliding_window=WINDOW,
        layer_types=LAYERS,
        vocab_size_per_layer_input=24,
        hidden_size_per_layer_input=8,
    ),
    "gemma4-moe": lambda: Gemma4TextConfig(
        **HEADS,
        sliding_window=WINDOW,
        layer_types=LAYERS,
        hidden_size_per_layer_input=0,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=24,
    ),
    "phi3": lambda: Phi3Config(**SIZES, sliding_window=WINDOW),
    "glm4": lambda: Glm4Config(**HEADS),
    "glm4-moe": lambda: Glm4MoeConfig(
        **HEADS, **EXPERTS, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1
    ),
    "deepseek-v2": lambda: DeepseekV2Config(
        **(SIZES | LATENT_ATTENTION | EXPERTS), n_shared_experts=1, first_k_dense_replace=1
    ),
    "deepseek-v3": lambda: DeepseekV3Config(
        **(SIZES | LATENT_ATTENTION | EXPERTS), n_shared_experts=1, first_k_dense_replace=1
    ),
    "olmo2": lambda: Olmo2Config(**SIZES),
    "olmo3": lambda: Olmo3Config(**SIZES, sliding_window=WINDOW, layer_types=LAYERS),
    "smollm3": lambda: SmolLM3Config(**SIZES, no_rope_layers=[1, 0]),
}
"""Architectures of this table only."""


@dataclass(frozen=True)
class Family:
    """One row of the table, as far as no test measures it."""

    models: str
    architecture: str
    """A key of `MORE`, or of `architectures`."""
    vllm: str
    """Whether vLLM 0.32 serves adapters of its class, by its model registry."""


_LORA: Final = "yes"
_BACKEND: Final = "yes (transformers backend)"
_NO_LORA: Final = "base only"

FAMILIES: Final = (
    Family("Llama 3.x", "llama3", _LORA),
    Family("Llama 4 (text)", "llama4", _LORA),
    Family("Qwen2.5", "qwen2", _LORA),
    Family("Qwen3", "qwen3", _LORA),
    Family("Qwen3-MoE", "qwen3-moe", _LORA),
    Family("Qwen3-Next", "qwen3-next", _LORA),
    Family("Qwen3.5 (text)", "qwen3.5", _LORA),
    Family("Mistral", "mistral", _LORA),
    Family("Ministral", "ministral", "not listed"),
    Family("Ministral 3", "ministral3", _LORA),
    Family("Mixtral", "mixtral", _LORA),
    Family("Gemma 2", "gemma2", _LORA),
    Family("Gemma 3 (text)", "gemma3", _LORA),
    Family("Gemma 3n (text)", "gemma3n", _NO_LORA),
    Family("Gemma 4 (text)", "gemma4", _LORA),
    Family("Gemma 4 MoE (text)", "gemma4-moe", _LORA),
    Family("Phi-3, Phi-4", "phi3", _LORA),
    Family("GPT-OSS", "gpt-oss", _LORA),
    Family("GLM-4", "glm4", _LORA),
    Family("GLM-4.5 to 4.7", "glm4-moe", _LORA),
    Family("DeepSeek V2", "deepseek-v2", _LORA),
    Family("DeepSeek V3, R1", "deepseek-v3", _LORA),
    Family("DeepSeek V3.2", "deepseek-v3.2", _NO_LORA),
    Family("OLMo 2", "olmo2", _BACKEND),
    Family("OLMo 3", "olmo3", _BACKEND),
    Family("SmolLM 2", "llama", _LORA),
    Family("SmolLM 3", "smollm3", _BACKEND),
    Family("Granite 3", "granite", _LORA),
    Family("Granite 4", "granite4", _LORA),
    Family("Falcon-H1", "falcon-h1", _LORA),
    Family("Nemotron-H", "nemotron-h", _LORA),
    Family("LFM2", "lfm2", _LORA),
    Family("Phi-2", "phi2", _BACKEND),
    Family("BLOOM", "bloom", _NO_LORA),
    Family("Qwen2.5-VL", "qwen2.5-vl", _LORA),
    Family("Qwen3-VL", "qwen3-vl", _LORA),
    Family("Gemma 3 (vision)", "gemma3-vl", _LORA),
    Family("Mistral Small 3.1", "mistral3", _LORA),
)

HEADER: Final = (
    "Models",
    "`model_type`",
    "Path",
    "Adapter on",
    "No adapter on",
    "Merge",
    "Embedded engine",
    "vLLM",
    "GGUF",
)


def table(rows: list[tuple[str, ...]]) -> str:
    """Returns the table in Markdown."""
    lines = [HEADER, tuple("---" for _ in HEADER), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def left_out(model: Any) -> tuple[float, list[str]]:
    """Returns the share of the language model's layers' weights with an adapter, and the names of matrices without."""
    trained = {id(value) for value in model.parameters() if value.requires_grad}
    covered = adapted_weights(model)
    causal = model.get_base_model()
    ends = (causal.get_input_embeddings(), causal.get_output_embeddings())
    embeddings = {id(value) for each in ends for value in each.parameters()}
    matrices = {
        name: value
        for name, value in causal.get_decoder().named_parameters()
        if value.dim() > 1 and id(value) not in trained and id(value) not in embeddings
    }
    total = sum(value.numel() for value in matrices.values())
    without = {name.replace(".base_layer", "") for name, value in matrices.items() if id(value) not in covered}
    share = sum(covered.get(id(value), 0) for value in matrices.values()) / total
    return share, sorted(name for name in without if not name.endswith("_bias"))
