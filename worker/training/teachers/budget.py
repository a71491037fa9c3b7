"""The budget of a teacher: tokens are reserved before a request, so concurrent requests cannot overspend it."""

import threading

from app.core.spec.teacher_answers import Spent, TeacherBudget


class BudgetExceeded(Exception):
    """The budget allows no further request."""


class BudgetLedger:
    """Tracks what a job has spent and reserved of its `TeacherBudget`. Thread-safe."""

    def __init__(self, budget: TeacherBudget, spent: Spent) -> None:
        """`spent` is what earlier attempts of the job have used."""
        self._budget = budget
        self._requests, self._tokens = spent.requests, spent.tokens
        self._reserved = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self.is_exhausted = False
        """Whether the budget has refused a request."""

    @property
    def spent(self) -> Spent:
        with self._changed:
            return Spent(requests=self._requests, tokens=self._tokens)

    def reserve(self, prompt_tokens: int, max_answer_tokens: int, wanted: int) -> int:
        """Reserves tokens for up to `wanted` answers and returns the number of answers that the budget allows now.

        Blocks while requests in flight may return some of their reserved tokens. Raises `BudgetExceeded` if even one
        answer is too expensive, or after `close`.
        """
        with self._changed:
            while not self._is_closed:
                left = self._left()
                count = wanted if left is None else min(wanted, (left - prompt_tokens) // max_answer_tokens)
                if count > 0:
                    self._reserved += prompt_tokens + count * max_answer_tokens
                    return count
                if self._reserved == 0:  # nothing in flight can free tokens
                    self.is_exhausted = True
                    break
                self._changed.wait()
            raise BudgetExceeded

    def settle(self, prompt_tokens: int, max_answer_tokens: int, count: int, used: int) -> None:
        """Replaces the reservation for `count` answers by the tokens that were used."""
        with self._changed:
            self._reserved -= prompt_tokens + count * max_answer_tokens
            self._tokens += used
            self._changed.notify_all()

    def count_request(self) -> None:
        """Counts one request, before it is sent. Raises `BudgetExceeded` if the budget allows no more requests."""
        with self._changed:
            if self._budget.requests is not None and self._requests >= self._budget.requests:
                self.is_exhausted = True
                raise BudgetExceeded
            self._requests += 1

    def close(self) -> None:
        """Wakes all waiters; each raises `BudgetExceeded`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _left(self) -> int | None:
        return None if self._budget.tokens is None else self._budget.tokens - self._tokens - self._reserved
