"""Rotary position embeddings whose frequencies depend on the longest sequence of a forward pass."""

from typing import Any


def length_limit(config: Any) -> int | None:
    """Returns the length beyond which one sequence changes the frequencies of all sequences in its pass, or None.

    transformers selects the factors of `longrope`, and the base of `dynamic` scaling, once for a pass.
    """
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [parameters] if "rope_type" in parameters else list(parameters.values())
    limits = []
    for each in by_layer_type:
        match each.get("rope_type") if isinstance(each, dict) else None:
            case "longrope":
                limits.append(int(each["original_max_position_embeddings"]))
            case "dynamic":
                limits.append(int(text.max_position_embeddings))
    return min(limits, default=None)
