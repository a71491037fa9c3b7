"""Hypothesis profiles: the suite tries the same examples in every run, `make fuzz` tries ten times as many random ones.

A failure in the suite thus means that the program has changed; the search for rare cases has a run of its own.
"""

from typing import Final

from hypothesis import settings

_EXAMPLES: Final = 100
"""How many examples a property tries in the suite unless it says otherwise."""


def register_profiles() -> None:
    """Register the profiles and load the suite's; `--hypothesis-profile=fuzz` then loads the other one."""
    settings.register_profile("suite", max_examples=_EXAMPLES, deadline=None, derandomize=True, database=None)
    settings.register_profile("fuzz", max_examples=10 * _EXAMPLES, deadline=None, print_blob=True)
    settings.load_profile("suite")


def examples(count: int) -> int:
    """Return the `max_examples` of a property that tries `count` examples in the suite."""
    return count * settings().max_examples // _EXAMPLES
