"""Tiny random base models of every kind that the engine trains, as directories on disk.

Weights are large for models of their size, so that every mask, position, cap and scale shows in the log-probabilities.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
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
_SIZES: Final[dict[str, Any]] = _IDS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_HEADS: Final[dict[str, Any]] = _SIZES | {"head_dim": 8}

ARCHITECTURES: Final[dict[str, Callable[[], Any]]] = {
    "llama": lambda: LlamaConfig(**_SIZES, attention_bias=True, mlp_bias=True),
    "qwen2": lambda: Qwen2Config(**_SIZES),
    "qwen2-half-sliding": lambda: Qwen2Config(
        **_SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**_HEADS),
    "gemma": lambda: GemmaConfig(**_HEADS),
    "gemma2": lambda: Gemma2Config(
        **_HEADS,
        sliding_window=WINDOW,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **_HEADS,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "mistral": lambda: MistralConfig(**_SIZES, sliding_window=WINDOW),
    "gpt2": lambda: GPT2Config(**_IDS, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "granite": lambda: GraniteConfig(
        **_SIZES, attention_multiplier=0.5, logits_scaling=2.0, residual_multiplier=0.7, embedding_multiplier=1.5
    ),
    "cohere": lambda: CohereConfig(**_SIZES, logit_scale=0.5),
    "starcoder2": lambda: Starcoder2Config(**_SIZES, sliding_window=None, tie_word_embeddings=False),
}


def build(directory: Path, name: str, dtype: torch.dtype = torch.float32) -> Path:
    """Writes config and random weights of architecture `name`; returns the directory."""
    torch.manual_seed(20)
    factory: Any = AutoModelForCausalLM
    model = factory.from_config(ARCHITECTURES[name]())
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
