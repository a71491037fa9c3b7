"""Size of a base model and of its layers: read from its files, or estimated from its number of parameters."""

import json
from dataclasses import dataclass
from typing import Any, Final

from app.core.models import weights
from app.core.models.registry import BaseModel

_WIDTH_A_LAYER: Final = 64
"""Assumed ratio of hidden size to layers of a model without files. A layer has about 12 hidden x hidden weights."""
_VOCABULARY: Final = 100_000


@dataclass(frozen=True)
class Shape:
    """The sizes that cost estimates use."""

    parameters: int
    active: int
    """Parameters that compute a token: all but the experts that a mixture's router leaves out."""
    bytes: int
    """Size of the weights as they are loaded."""
    layers: int
    hidden: int
    intermediate: int
    kv_width: int
    """Numbers that a layer caches for the keys of one token, and as many for its values."""
    vocabulary: int
    is_pulled: bool = True
    is_exact: bool = True
    """Whether it was read from the model's own config."""
    experts: int = 0
    """Parameters of routed experts, which are stacked in memory."""


def shape_of(model: BaseModel) -> Shape | None:
    """Return the shape of a model; None if it is not in the catalog and has no readable weights."""
    sizes = weights.sizes(model.directory)
    if sizes is None:
        return _guessed(model.entry.parameters, model.entry.parameters * 2, False) if model.entry else None
    try:
        config = json.loads((model.directory / "config.json").read_text(encoding="utf-8"))
        return _read(config.get("text_config", config), sizes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _guessed(sizes.parameters, sizes.bytes, True)


def _read(config: dict[str, Any], sizes: weights.Sizes) -> Shape:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    width = int(config.get("head_dim") or hidden // heads)
    return Shape(
        parameters=sizes.parameters,
        active=sizes.active,
        bytes=sizes.bytes,
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or 4 * hidden),
        kv_width=int(config.get("num_key_value_heads") or heads) * width,
        vocabulary=int(config["vocab_size"]),
        experts=sizes.experts,
    )


def _guessed(parameters: int, stored: int, is_pulled: bool) -> Shape:
    layers = max(1, round((parameters / (12 * _WIDTH_A_LAYER**2)) ** (1 / 3)))
    hidden = _WIDTH_A_LAYER * layers
    return Shape(
        parameters, parameters, stored, layers, hidden, 3 * hidden, hidden // 4, _VOCABULARY, is_pulled, is_exact=False
    )
