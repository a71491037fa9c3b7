"""Writes the hyperparameters of a model into a GGUF header."""

import math
from typing import Any

import numpy as np
from gguf import GGUFWriter, RopeScalingType

from worker.exporting.gguf.families import Family, full_attention_rope, head_size


def add_hyperparameters(writer: GGUFWriter, config: Any, family: Family) -> None:
    """Add everything that llama.cpp needs to run the weights."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_vocab_size(config.vocab_size)
    _add_rope(writer, config)
    if family.full_attention_every > 1:
        writer.add_sliding_window(config.sliding_window)
    if cap := getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(cap)
    if cap := getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(cap)


def _add_rope(writer: GGUFWriter, config: Any) -> None:
    rope = full_attention_rope(config)
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    if local := config.rope_parameters.get("sliding_attention"):
        writer.add_rope_freq_base_swa(local["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def rope_factors(config: Any) -> np.ndarray | None:
    """Return the divisor of each rotation frequency [head size / 2] for rope scaling of type llama3, else None.

    llama.cpp reads the divisors from a tensor. The formula is transformers' `_compute_llama3_parameters`: high
    frequencies stay, low ones are divided by `factor`, and those between are interpolated.
    """
    rope = full_attention_rope(config)
    if rope["rope_type"] != "llama3":
        return None
    size, context = head_size(config), rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = context / (2 * math.pi * rope["rope_theta"] ** (np.arange(0, size, 2) / size))  # in the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    divisors: np.ndarray = (1.0 / ((1.0 - smooth) / rope["factor"] + smooth)).astype(np.float32)
    return divisors
