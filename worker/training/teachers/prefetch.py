"""Teacher members that a server writes, asked for ahead of the training so that it seldom waits.

Rows are asked about in the order in which the steps need them, a few steps ahead and no further: a job that ends early
has not paid for the rest.
"""

import queue
import threading
from collections.abc import Sequence
from typing import Final

from app.core.egress.client import AddressRefused
from app.core.egress.json_client import NoUsableResponse
from app.core.spec.job import GroupMix, Sampling
from app.core.spec.reports import TrainerExit
from worker.training.batching import DataOrder
from worker.training.interfaces import StopFlag
from worker.training.teachers.answers import TeacherAnswerCache
from worker.training.teachers.budget import BudgetExceeded, BudgetLedger
from worker.training.teachers.server import AnswerBatch, TeacherServer
from worker.training.types import JobFailure, Prompt, UsableAnswer

AT_ONCE: Final = 16
"""Requests under way together."""
AHEAD_ROWS: Final = 64
"""Rows that are asked about before a step needs them, and at least those of two steps."""
MAX_FAILURES: Final = 8
"""Rows in a row without an answer: then it is the teacher, and not the rows."""
REFUSALS: Final = frozenset({401, 403, 404})
"""Statuses that no other row would change."""
_LISTEN_SECONDS: Final = 0.2
_PARAM: Final = "method.gft.teacher"


class TeacherPrefetcher:
    """Asks one server. A context manager; its threads are daemons, since an answer may take minutes."""

    def __init__(
        self,
        cache: TeacherAnswerCache,
        server: TeacherServer,
        ledger: BudgetLedger,
        order: DataOrder,
        total_steps: int,
        mix: GroupMix,
        sampling: Sampling,
        *,
        is_first_rank: bool,
    ) -> None:
        """`is_first_rank` is False in all processes of a run but the first, whose answers go for all."""
        self._cache = cache
        self._server = server
        self._ledger = ledger
        self._order = order
        self._total_steps = total_steps
        self._mix = mix
        self._sampling = sampling
        self._ahead = max(2, -(-AHEAD_ROWS // order.batch_size))
        self._asked_up_to = 0
        self._rows: queue.SimpleQueue[Prompt | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._begun: set[int] = set()
        self._settled: set[int] = set()
        self._to_ask: dict[int, Prompt] = {}
        self._failures = 0
        self._failed_rows = 0
        self._failure: JobFailure | None = None
        self._told = 0
        self._told_empty = False
        self._is_first_rank = is_first_rank
        for number in range(AT_ONCE if is_first_rank else 0):
            threading.Thread(target=self._work, name=f"teacher-{number}", daemon=True).start()

    def close(self) -> None:
        """Nothing more is asked."""
        self._ledger.close()
        for _ in range(AT_ONCE):
            self._rows.put(None)

    def begin(self, step: int) -> None:
        """Goes on asking for the steps from `step` on; waits for nothing."""
        if not self._is_first_rank:
            return
        if self._asked_up_to == 0:
            self._asked_up_to = step - 1
            self._count_rows(step)
        until = min(self._total_steps, step + self._ahead)
        for coming in range(self._asked_up_to + 1, until + 1):
            for prompt in self._order.step(coming):
                if prompt.line in self._to_ask and prompt.line not in self._begun:
                    self._begun.add(prompt.line)
                    self._rows.put(prompt)
        self._asked_up_to = max(self._asked_up_to, until)

    def prepare(self, step: int, stop: StopFlag) -> None:
        """Returns once all is there that `step` will get, or the run is to stop. Raises `JobFailure`."""
        self.begin(step)
        prompts = self._order.step(step)
        needed = {prompt.line for prompt in prompts} & self._to_ask.keys()
        while True:
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                self._changed.wait_for(lambda: needed <= self._settled or self._failure, _LISTEN_SECONDS)
                is_ready = needed <= self._settled
            self._tell()
            if is_ready or stop.is_set():
                break
        if is_ready:
            self._check_contrast(prompts)

    def answers(self, prompts: Sequence[Prompt]) -> dict[int, tuple[UsableAnswer, ...]]:
        """The teacher's answers by the line of their row."""
        return {prompt.line: self._cache.usable(prompt) for prompt in prompts}

    def _count_rows(self, step: int) -> None:
        prompts = {one.line: one for coming in range(step, self._total_steps + 1) for one in self._order.step(coming)}
        self._to_ask = {line: prompt for line, prompt in prompts.items() if self._cache.missing(prompt)}
        wanted = sum(len(self._cache.keys(prompt)) for prompt in prompts.values())
        cached = self._cache.cached(list(prompts.values()))
        self._cache.say(
            f"Teacher: {wanted:,} answers are wanted, {cached:,} of them are known", wanted=wanted, known=cached
        )

    def _work(self) -> None:
        while (prompt := self._rows.get()) is not None:
            try:
                self._ask(prompt)
            except BudgetExceeded:
                pass  # the row goes without; `_tell` says so
            except Exception as error:  # the boundary of a thread: what goes wrong ends the run, and not in silence
                self._fail(JobFailure(TrainerExit.bad_config, "teacher_failed", f"{type(error).__name__}: {error}"))
            with self._changed:
                self._settled.add(prompt.line)
                self._changed.notify_all()

    def _ask(self, prompt: Prompt) -> None:
        """All that is missing for a row. Raises `BudgetExceeded`."""
        while (keys := self._cache.missing(prompt)) and self._failure is None:
            read, most = len(prompt.ids), self._sampling.max_tokens
            count = self._ledger.set_aside(read, most, len(keys))
            batch = AnswerBatch((), 0)
            try:
                batch = self._server.ask(prompt, keys[:count], self._ledger.count_request)
                failure: NoUsableResponse | AddressRefused = NoUsableResponse(batch.problem or "the teacher is silent")
            except (NoUsableResponse, AddressRefused) as error:
                failure = error
            finally:
                self._ledger.settle(read, most, count, batch.tokens)
                self._cache.add(batch.answers, lambda: self._ledger.spent)
            if not batch.answers:
                self._note_failure(prompt, failure)
                return
            self._failures = 0

    def _note_failure(self, prompt: Prompt, error: NoUsableResponse | AddressRefused) -> None:
        with self._changed:
            self._failures += 1
            self._failed_rows += 1
            is_first = self._failed_rows == 1
            is_over = self._failures >= max(2, min(MAX_FAILURES, len(self._to_ask)))
        if isinstance(error, AddressRefused) or error.status in REFUSALS:
            advice = "Check its model and base_url, and the project's key for it (`grouptune teachers`)."
            self._fail(JobFailure(TrainerExit.bad_config, "teacher_refused", f"{_capital(error)}. {advice}", _PARAM))
        elif is_over and error.is_retryable:
            self._fail(JobFailure(TrainerExit.dependency_down, "teacher_away", _capital(error), _PARAM))
        elif is_over:
            message = f"The teacher's answers cannot be used: {error}"
            self._fail(JobFailure(TrainerExit.bad_config, "teacher_unusable", message, _PARAM))
        elif is_first:
            self._cache.say(f"line {prompt.line}: goes without (more) teacher answers: {error}", warn=True)

    def _fail(self, failure: JobFailure) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    def _tell(self) -> None:
        """Progress at each tenth of the rows, and once that the budget is spent."""
        done, total = len(self._settled), len(self._to_ask)
        if total and done * 10 // total > self._told * 10 // total:
            self._told = done
            spent, failed, unusable = self._ledger.spent, self._failed_rows, self._cache.unusable
            self._cache.say(
                f"Teacher: {done:,} of {total:,} rows, {spent.requests:,} requests and {spent.tokens:,} tokens so far",
                rows=done,
                of=total,
                requests=spent.requests,
                tokens=spent.tokens,
                failed_rows=failed,
                unusable_answers=unusable,
            )
        if self._ledger.is_empty and not self._told_empty:
            self._told_empty = True
            spent = self._ledger.spent
            self._cache.say(
                f"The teacher's budget is spent: {spent.requests:,} requests, {spent.tokens:,} tokens. Rows that were "
                "not asked about go on with the answers that they have",
                warn=True,
                requests=spent.requests,
                tokens=spent.tokens,
            )

    def _check_contrast(self, prompts: Sequence[Prompt]) -> None:
        """Raises `JobFailure` for a row that would be alone with its demonstration for want of budget."""
        if not self._ledger.is_empty or self._mix.self_:
            return
        for prompt in prompts:
            given = int(bool(self._mix.expert and prompt.demonstration is not None)) + len(prompt.teacher_answers)
            if given + len(self._cache.usable(prompt)) < 2:
                raise JobFailure(
                    TrainerExit.bad_config,
                    "teacher_budget_spent",
                    f"The teacher's budget is spent, and the group of line {prompt.line} has nothing to compare: raise "
                    "teacher.budget, or set group.self to at least 1.",
                    f"{_PARAM}.budget",
                )


def _capital(error: Exception) -> str:
    text = str(error).rstrip(".")
    return text[:1].upper() + text[1:]
