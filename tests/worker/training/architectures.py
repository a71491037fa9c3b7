"""Tiny random base models of every kind that the engine trains, as directories on disk.

Weights are large for models of their size, so that every mask, position, cap and scale shows in the log-probabilities.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BloomConfig,
    CohereConfig,
    DeepseekV32Config,
    FalconH1Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeHybridConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    Mistral3Config,
    MistralConfig,
    NemotronHConfig,
    Phi3Config,
    PhiConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3NextConfig,
    Qwen3VLConfig,
    Starcoder2Config,
)

from app.core.spec.job import Lora
from worker.training.model import Policy, load_policy

VOCABULARY: Final = 24
PAD, BOS, END = 0, 1, 2
WINDOW: Final = 4
"""Shorter than the prompts of the tests."""

LORA: Final = Lora(r=4, alpha=8)

_IDS: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": END,
    "initializer_range": 0.3,
}
SIZES: Final[dict[str, Any]] = _IDS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
HEADS: Final[dict[str, Any]] = SIZES | {"head_dim": 8}

LAYERS: Final = ["sliding_attention", "full_attention"]

Configs = dict[str, Callable[[], Any]]

ARCHITECTURES: Final[Configs] = {
    "llama": lambda: LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen2-half-sliding": lambda: Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**HEADS),
    "gemma": lambda: GemmaConfig(**HEADS),
    "gemma2": lambda: Gemma2Config(
        **HEADS,
        sliding_window=WINDOW,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **HEADS,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=WINDOW),
    "gpt2": lambda: GPT2Config(**_IDS, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "granite": lambda: GraniteConfig(
        **SIZES, attention_multiplier=0.5, logits_scaling=2.0, residual_multiplier=0.7, embedding_multiplier=1.5
    ),
    "cohere": lambda: CohereConfig(**SIZES, logit_scale=0.5),
    "starcoder2": lambda: Starcoder2Config(**SIZES, sliding_window=None, tie_word_embeddings=False),
    "gpt-oss": lambda: GptOssConfig(
        **HEADS, sliding_window=WINDOW, num_local_experts=4, num_experts_per_tok=2, layer_types=LAYERS
    ),
    "gemma3n": lambda: Gemma3nTextConfig(
        **(HEADS | {"intermediate_size": [48, 48]}),
        sliding_window=WINDOW,
        layer_types=LAYERS,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0, 0.0],
        altup_num_inputs=2,
    ),
}
"""Architectures on the fast path."""

EXPERTS: Final[dict[str, Any]] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LINEAR_ATTENTION: Final[dict[str, Any]] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
LATENT_ATTENTION: Final[dict[str, Any]] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
}
_MAMBA: Final[dict[str, Any]] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}

LONG_FACTORS: Final = 40
"""Tokens beyond which the models of `LENGTH_DEPENDENT` use other rotary frequencies."""

PLAIN: Final[Configs] = {
    "qwen3-next": lambda: Qwen3NextConfig(
        **HEADS, **_LINEAR_ATTENTION, **EXPERTS, num_experts=4, shared_expert_intermediate_size=16
    ),
    "qwen3.5": lambda: Qwen3_5TextConfig(**HEADS, **_LINEAR_ATTENTION),
    "granite4": lambda: GraniteMoeHybridConfig(
        **SIZES,
        **_MAMBA,
        layer_types=["mamba", "attention"],
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=16,
    ),
    "llama4": lambda: Llama4TextConfig(
        **HEADS,
        intermediate_size_mlp=48,
        num_local_experts=4,
        attention_chunk_size=WINDOW,
        interleave_moe_layer_step=1,
        no_rope_layers=[1, 0],
    ),
    "lfm2": lambda: Lfm2Config(**SIZES, layer_types=["conv", "full_attention"], block_multiple_of=8),
    "falcon-h1": lambda: FalconH1Config(**SIZES, **_MAMBA, mamba_d_ssm=64, mamba_chunk_size=8),
    "nemotron-h": lambda: NemotronHConfig(
        **{name: value for name, value in HEADS.items() if name != "num_hidden_layers"},
        layers_block_type=["mamba", "attention", "mlp"],
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=1,
        ssm_state_size=8,
        chunk_size=8,
    ),
    "deepseek-v3.2": lambda: DeepseekV32Config(
        **(SIZES | LATENT_ATTENTION | EXPERTS),
        first_k_dense_replace=1,
        index_topk=WINDOW,
        index_n_heads=16,
        index_head_dim=16,
    ),
    "phi2": lambda: PhiConfig(**SIZES),
    "bloom": lambda: BloomConfig(**_IDS, hidden_size=32, n_layer=2, n_head=4),
}
"""Architectures on the plain path: recurrent states, sparse attention, attention chunks, ALiBi, a biased head."""

_VISION: Final[dict[str, Any]] = {
    "depth": 1,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 16,
    "out_hidden_size": 32,
    "patch_size": 4,
}
_ENCODER: Final[dict[str, Any]] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
_MROPE: Final[dict[str, Any]] = {
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
}

VISION_LANGUAGE: Final[Configs] = {
    "qwen2.5-vl": lambda: Qwen2_5_VLConfig(
        text_config=SIZES | _MROPE, vision_config=_VISION | {"fullatt_block_indexes": [0], "window_size": 8}
    ),
    "qwen3-vl": lambda: Qwen3VLConfig(
        text_config=HEADS | _MROPE,
        vision_config=_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    ),
    "gemma3-vl": lambda: Gemma3Config(
        text_config=HEADS | {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "layer_types": LAYERS},
        vision_config=_ENCODER,
        mm_tokens_per_image=4,
    ),
    "mistral3": lambda: Mistral3Config(
        text_config=HEADS | {"model_type": "mistral"},
        vision_config=_ENCODER | {"model_type": "pixtral", "head_dim": 8},
    ),
}
"""Vision-language models, whose text side is trained."""


LENGTH_DEPENDENT: Final[Configs] = {
    "phi3-long": lambda: Phi3Config(
        **(SIZES | {"max_position_embeddings": 128}),
        original_max_position_embeddings=LONG_FACTORS,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [1.0, 2.0, 4.0, 8.0],
            "original_max_position_embeddings": LONG_FACTORS,
        },
    ),
    "llama-dynamic": lambda: LlamaConfig(
        **(SIZES | {"max_position_embeddings": LONG_FACTORS}),
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    ),
}
"""Models whose position embeddings depend on the longest sequence of a pass."""


def build(directory: Path, name: str, dtype: torch.dtype = torch.float32, more: Configs | None = None) -> Path:
    """Writes config and random weights of architecture `name`, which may be one of `more`; returns the directory."""
    torch.manual_seed(20)
    config = (ARCHITECTURES | PLAIN | VISION_LANGUAGE | LENGTH_DEPENDENT | (more or {}))[name]()
    factory: Any = AutoModelForImageTextToText if name in VISION_LANGUAGE else AutoModelForCausalLM
    model = factory.from_config(config)
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 1:  # norms start at 1 or 0 and biases at 0, where a lost one would not show
                value.add_(0.2 * torch.randn_like(value))
    model.to(dtype).save_pretrained(directory)
    return directory


def randomise(policy: Policy, seed: int = 5, scale: float = 0.15) -> Policy:
    """An adapter that does something: PEFT starts with B = 0, where half of all mistakes cannot be seen."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in policy.trained.values():
            value.copy_(scale * torch.randn(value.shape, generator=random))
    return policy


def random_policy(directory: Path, lora: Lora = LORA, dtype: torch.dtype | None = None) -> Policy:
    """The base model of `directory` with a random adapter."""
    return randomise(load_policy(directory, lora, seed=0, dtype=dtype))
