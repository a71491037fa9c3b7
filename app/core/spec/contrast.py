"""When the rewards of a group say anything: the trainer's rule, and what a lint foretells."""

from collections.abc import Sequence
from typing import Final

ZERO_VARIANCE_RANGE: Final = 1e-6
"""Rewards closer together than this carry no signal, only float noise."""


def has_contrast(rewards: Sequence[float]) -> bool:
    """Whether the rewards of a group differ; a group of one always trains (A = R)."""
    return len(rewards) == 1 or (len(rewards) > 1 and max(rewards) - min(rewards) > ZERO_VARIANCE_RANGE)
