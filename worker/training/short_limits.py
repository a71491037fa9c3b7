"""Short windows, attention chunks and sparse indices, so that a check of short sequences reaches beyond them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

SHORT: Final = 8
"""Tokens that a window, an attention chunk or a sparse index has during the check; the sequences are 4 times longer."""
_LIMITS: Final = (
    *("sliding_window", "sliding_window_size", "attention_window_size", "window_size", "local_window_size"),
    *("attention_chunk_size", "index_topk"),
)
"""Names of these numbers in configs and modules."""


@contextmanager
def short_limits(causal: Any) -> Iterator[None]:
    """Shortens windows, attention chunks and sparse indices within the block, in configs and in modules."""
    configs = {id(config): config for module in causal.modules() for config in _configs(module)}
    changed: list[tuple[Any, str, int]] = []
    for owner in (*configs.values(), *causal.modules()):
        for name in _LIMITS:
            value = vars(owner).get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > SHORT:
                changed.append((owner, name, value))
    try:
        for owner, name, _ in changed:
            setattr(owner, name, SHORT)
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)


def _configs(module: Any) -> list[Any]:
    config = getattr(module, "config", None)
    return [] if config is None else [config, *(getattr(config, name, None) for name in config.sub_configs)]
