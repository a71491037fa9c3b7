"""Whether a base model's config.json describes a model that can be trained: a causal language model. No torch."""

import json
from pathlib import Path
from typing import Final

_CAUSAL: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForImageTextToText")
"""Ends of the names of transformers' classes with a causal language model's head."""


def unsupported_reason(directory: Path) -> str | None:
    """Return why the model of `directory` cannot be trained, as a clause; None if it may, or is not there yet."""
    if (directory / "model_index.json").is_file():
        return "it is a diffusion pipeline, not a language model"
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    if config.get("is_encoder_decoder"):
        return "it is an encoder-decoder, and only causal (decoder-only) language models can be trained"
    names = [str(name) for name in config.get("architectures") or ()]
    if names and not any(name.endswith(_CAUSAL) for name in names):
        return f"its architecture, {names[0]}, has no causal language model head"
    return None
