"""Rotary position embeddings whose frequencies depend on the longest sequence of a forward pass."""

from collections.abc import Sequence
from typing import Any

_LONGEST = "max_seq_len_cached"


def length_limit(config: Any) -> int | None:
    """Returns the length beyond which one sequence changes the frequencies of all sequences in its pass, or None.

    transformers selects the factors of `longrope`, and the base of `dynamic` scaling, once for a pass.
    """
    return min((limit for _, limit in _scalings(config)), default=None)


def is_stale(config: Any, cached: int, length: int) -> bool:
    """Returns whether keys computed for `cached` tokens have other frequencies than a pass of `length` tokens.

    `longrope` has two sets of frequencies, `dynamic` others for every length.
    """
    return any(limit < length and (cached <= limit or kind == "dynamic") for kind, limit in _scalings(config))


def _scalings(config: Any) -> list[tuple[str, int]]:
    """Returns each kind of scaling with its limit in tokens."""
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [parameters] if "rope_type" in parameters else list(parameters.values())
    found = []
    for each in by_layer_type:
        match each.get("rope_type") if isinstance(each, dict) else None:
            case "longrope":
                found.append(("longrope", int(each["original_max_position_embeddings"])))
            case "dynamic":
                found.append(("dynamic", int(text.max_position_embeddings)))
    return found


def dynamic_embeddings(causal: Any) -> list[Any]:
    """Returns the modules whose frequencies stay those of the longest sequence since the last short one."""
    return [
        module
        for module in causal.modules()
        if hasattr(module, _LONGEST) and "dynamic" in str(vars(module).get("rope_type"))
    ]


def forget_longest(embeddings: Sequence[Any]) -> None:
    """Makes the next pass of these modules compute its own frequencies, whatever sequences came before."""
    for module in embeddings:
        for name in [name for name in vars(module) if name.endswith(_LONGEST)]:
            setattr(module, name, 0)
