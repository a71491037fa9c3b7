"""Mixtures of experts: which weights are experts, and how many of them compute a token. No torch."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_TOTAL: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_USED: Final = (
    *("num_experts_per_tok", "num_experts_per_token", "experts_per_token"),
    *("top_k_experts", "moe_topk", "moe_k"),
)
_NAME: Final = re.compile(r"(.*\.)?experts\..*")


@dataclass(frozen=True)
class Experts:
    """The routed experts of a layer."""

    total: int
    used: int
    """Experts that compute a token."""

    def owns(self, name: str, shape: Sequence[int]) -> bool:
        """Return whether a weight is one of a routed expert, or of all of them stacked; shared experts do not count."""
        return _NAME.fullmatch(name) is not None or (len(shape) == 3 and shape[0] == self.total and shape[1] > 1)

    def active(self, parameters: int, weights: Iterable[tuple[str, Sequence[int]]]) -> int:
        """Return how many of a model's `parameters` compute a token; `weights` are names and shapes."""
        owned = sum(math.prod(shape) for name, shape in weights if self.owns(name, shape))
        return parameters - owned * (self.total - self.used) // self.total


def experts_of(config: Mapping[str, Any]) -> Experts | None:
    """Return the experts of a model by its config.json; None if it has none."""
    values = {**config, **(config.get("text_config") or {})}
    total, used = (_first(values, names) for names in (_TOTAL, _USED))
    return Experts(total, used) if 0 < used <= total and total > 1 else None


def _first(values: Mapping[str, Any], names: Sequence[str]) -> int:
    found = (values.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), 0)
