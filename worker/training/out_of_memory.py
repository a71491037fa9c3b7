"""Out-of-memory recovery: halve the token budget of a micro-batch and repeat the pass."""

from collections.abc import Callable
from typing import TypeVar

import torch

_CPU_ALLOCATOR = "DefaultCPUAllocator"

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an allocation failed. torch's CPU allocator raises a plain RuntimeError that names itself."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
    )


class TokenBudget:
    """The most packed tokens that a micro-batch may hold. Halved after each out-of-memory error, never raised again."""

    def __init__(self, tokens: int, on_shrink: Callable[[int], None], *, can_shrink: bool = True) -> None:
        """`on_shrink` receives the new budget in tokens.

        `can_shrink` is False where a pass cannot be repeated: other ranks have joined it, and wait for its next block.
        """
        self.tokens = tokens
        self._on_shrink = on_shrink
        self._can_shrink = can_shrink

    def run(self, attempt: Callable[[int], Result], *, shortest: int, reset: Callable[[], None]) -> Result:
        """Returns `attempt(tokens)`; after an out-of-memory error calls `reset`, halves the budget and tries again.

        Re-raises the error once the budget is no larger than `shortest`, the tokens of the shortest sequence: each
        sequence is a micro-batch of its own by then, and a smaller budget would change nothing.
        """
        while True:
            try:
                return attempt(self.tokens)
            except (MemoryError, RuntimeError) as error:
                if not self._can_shrink or not is_out_of_memory(error) or self.tokens <= shortest:
                    raise
            # Outside the except clause: the exception's traceback keeps the failed pass's tensors alive.
            reset()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.tokens //= 2
            self._on_shrink(self.tokens)
