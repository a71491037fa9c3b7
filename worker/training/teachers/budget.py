"""A teacher's budget: what is asked is set aside first, so that answers under way together cannot overspend it."""

import threading

from app.core.spec.teacher_answers import Spent, TeacherBudget


class BudgetExceeded(Exception):
    """Nothing more may be asked."""


class BudgetLedger:
    """What a job may still spend, for any number of threads."""

    def __init__(self, budget: TeacherBudget, spent: Spent) -> None:
        self._budget = budget
        self._requests, self._tokens = spent.requests, spent.tokens
        self._set_aside = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self.is_empty = False
        """Whether somebody was refused."""

    @property
    def spent(self) -> Spent:
        with self._changed:
            return Spent(requests=self._requests, tokens=self._tokens)

    def set_aside(self, prompt_tokens: int, answer_tokens: int, wanted: int) -> int:
        """How many of `wanted` answers may be asked for now; their tokens, at most, are set aside.

        Waits while answers under way may cost less than was set aside for them. Raises `BudgetExceeded` when even one
        answer is too much.
        """
        with self._changed:
            while not self._is_closed:
                left = self._left()
                count = wanted if left is None else min(wanted, (left - prompt_tokens) // answer_tokens)
                if count > 0:
                    self._set_aside += prompt_tokens + count * answer_tokens
                    return count
                if self._set_aside == 0:
                    self.is_empty = True
                    break
                self._changed.wait()
            raise BudgetExceeded

    def settle(self, prompt_tokens: int, answer_tokens: int, count: int, used: int) -> None:
        """Replaces what was set aside by what was used."""
        with self._changed:
            self._set_aside -= prompt_tokens + count * answer_tokens
            self._tokens += used
            self._changed.notify_all()

    def count_request(self) -> None:
        """Before each request. Raises `BudgetExceeded`."""
        with self._changed:
            if self._budget.requests is not None and self._requests >= self._budget.requests:
                self.is_empty = True
                raise BudgetExceeded
            self._requests += 1

    def close(self) -> None:
        """Sends away who waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _left(self) -> int | None:
        return None if self._budget.tokens is None else self._budget.tokens - self._tokens - self._set_aside
