"""Prefetches teacher answers from a server, so that training seldom waits for them.

Requests rows in the order in which the steps need them and only a few steps ahead, so that a job that ends early does
not pay for the rest.
"""

import queue
import threading
from collections.abc import Sequence
from typing import Final

from app.core.egress.client import AddressRefused
from app.core.egress.json_client import NoUsableResponse
from app.core.plurals import plural
from app.core.spec.job import GroupMix, Sampling
from app.core.spec.reports import TrainerExit
from app.core.spec.rows import shown_lines
from worker.training.batching import DataOrder
from worker.training.interfaces import StopFlag
from worker.training.teachers.answers import TeacherAnswerCache
from worker.training.teachers.budget import BudgetExceeded, BudgetLedger
from worker.training.teachers.server import AnswerBatch, TeacherServer
from worker.training.types import JobFailure, Prompt, UsableAnswer

CONCURRENT_REQUESTS: Final = 16
"""Requests in flight at the same time, each in its own thread."""
PREFETCH_ROWS: Final = 64
"""Rows to request before a step needs them; always at least the rows of two steps."""
MAX_FAILURES: Final = 8
"""Consecutive rows without an answer after which the teacher is at fault, not the rows."""
PROBED_ROWS: Final = 2
"""Other rows to request in order to decide whether the teacher is unavailable or fails on certain rows."""
REFUSALS: Final = frozenset({401, 403, 404})
"""HTTP statuses that would fail every row, so the job fails."""
_POLL_SECONDS: Final = 0.2
_PARAM: Final = "method.gft.teacher"


class TeacherPrefetcher:
    """Sends requests to one server from daemon threads, since an answer may take minutes. Must be closed."""

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
        """Only the first rank sends requests; its answers are used on all ranks."""
        self._cache = cache
        self._server = server
        self._ledger = ledger
        self._order = order
        self._total_steps = total_steps
        self._mix = mix
        self._sampling = sampling
        self._steps_ahead = max(2, -(-PREFETCH_ROWS // order.batch_size))
        self._requested_up_to = 0
        self._rows: queue.SimpleQueue[Prompt | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._requested: set[int] = set()
        """Lines of rows that are queued, in flight or settled."""
        self._settled: set[int] = set()
        """Lines of rows that will get no further answers: complete, failed, or over budget."""
        self._needed: dict[int, Prompt] = {}
        """Rows with missing answers, by line."""
        self._failed: set[int] = set()
        """Lines of rows that got no further answers because a request failed."""
        self._failed_in_a_row: set[int] = set()
        """Those of `_failed` since the last answer to any row."""
        self._deciding = threading.Lock()
        self._failure: JobFailure | None = None
        self._reported_rows = 0
        self._has_reported_exhaustion = False
        self._is_first_rank = is_first_rank
        for number in range(CONCURRENT_REQUESTS if is_first_rank else 0):
            threading.Thread(target=self._work, name=f"teacher-{number}", daemon=True).start()

    def close(self) -> None:
        """Stops sending requests."""
        self._ledger.close()
        for _ in range(CONCURRENT_REQUESTS):
            self._rows.put(None)

    def begin(self, step: int) -> None:
        """Queues requests for `step` and the next steps. Does not block."""
        if not self._is_first_rank:
            return
        if self._requested_up_to == 0:
            self._requested_up_to = step - 1
            self._find_missing(step)
        until = min(self._total_steps, step + self._steps_ahead)
        for coming in range(self._requested_up_to + 1, until + 1):
            for prompt in self._order.step(coming):
                if prompt.line in self._needed and prompt.line not in self._requested:
                    self._requested.add(prompt.line)
                    self._rows.put(prompt)
        self._requested_up_to = max(self._requested_up_to, until)

    def prepare(self, step: int, stop: StopFlag) -> None:
        """Blocks until the rows of `step` are settled or `stop` is set. Raises `JobFailure`."""
        self.begin(step)
        prompts = self._order.step(step)
        needed = {prompt.line for prompt in prompts} & self._needed.keys()
        while True:
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                self._changed.wait_for(lambda: needed <= self._settled or self._failure, _POLL_SECONDS)
                is_ready = needed <= self._settled
            self._report_progress()
            if is_ready or stop.is_set():
                break
        if is_ready:
            self._check_contrast(prompts)

    def answers(self, prompts: Sequence[Prompt]) -> dict[int, tuple[UsableAnswer, ...]]:
        """Returns the teacher answers by the line of their row."""
        return {prompt.line: self._cache.usable(prompt) for prompt in prompts}

    def _find_missing(self, step: int) -> None:
        """Collects the rows of `step` and all later steps that lack teacher answers."""
        prompts = {
            prompt.line: prompt for coming in range(step, self._total_steps + 1) for prompt in self._order.step(coming)
        }
        self._needed = {line: prompt for line, prompt in prompts.items() if self._cache.missing(prompt)}
        wanted = sum(len(self._cache.keys(prompt)) for prompt in prompts.values())
        cached = self._cache.cached(list(prompts.values()))
        self._cache.report_event(
            f"Teacher: the job needs {plural(wanted, 'answer')}, {cached:,} of them are cached",
            wanted=wanted,
            known=cached,
        )

    def _work(self) -> None:
        while (prompt := self._rows.get()) is not None:
            try:
                self._request(prompt)
            except BudgetExceeded:
                pass  # the row gets no teacher answers; `_report_progress` reports it
            except Exception as error:  # thread boundary: an error must fail the run, not vanish
                self._fail(JobFailure(TrainerExit.bad_config, "teacher_failed", f"{type(error).__name__}: {error}"))
            with self._changed:
                self._settled.add(prompt.line)
                self._changed.notify_all()

    def _request(self, prompt: Prompt) -> None:
        """Requests answers until none is missing for the row. Raises `BudgetExceeded`.

        A server may return fewer answers than requested, hence the loop.
        """
        while (keys := self._cache.missing(prompt)) and self._failure is None:
            try:
                batch = self._send(prompt, keys)
            except (NoUsableResponse, AddressRefused) as error:
                self._note_failure(prompt, error)
                return
            if not batch.answers:
                self._note_failure(prompt, NoUsableResponse(batch.problem or "the teacher returned no answer"))
                return
            with self._changed:
                self._failed_in_a_row.clear()

    def _send(self, prompt: Prompt, keys: Sequence[str], *, keep: bool = True) -> AnswerBatch:
        """Requests as many answers as the budget allows, and keeps them. Raises as `request_answers`."""
        prompt_tokens, max_tokens = len(prompt.ids), self._sampling.max_tokens
        count = self._ledger.reserve(prompt_tokens, max_tokens, len(keys))
        batch = AnswerBatch((), 0)
        try:
            batch = self._server.request_answers(prompt, keys[:count], self._ledger.count_request)
            return batch
        finally:
            self._ledger.settle(prompt_tokens, max_tokens, count, batch.tokens)
            self._cache.add(batch.answers if keep else (), lambda: self._ledger.spent)

    def _note_failure(self, prompt: Prompt, error: NoUsableResponse | AddressRefused) -> None:
        with self._changed:
            is_first = not self._failed
            self._failed.add(prompt.line)
            self._failed_in_a_row.add(prompt.line)
        if isinstance(error, AddressRefused) or error.status in REFUSALS:
            advice = "Check the teacher's model and base_url, and the project's key for it (`grouptune teachers`)."
            self._fail(JobFailure(TrainerExit.bad_config, "teacher_refused", f"{_sentence(error)}. {advice}", _PARAM))
        elif self._is_over and error.is_retryable:
            with self._deciding:  # rows that fail at the same time are decided together
                self._end_or_give_up_rows(error)
        elif self._is_over:
            message = f"The teacher's answers are unusable: {error} ({shown_lines(self._failed_in_a_row)})"
            self._fail(JobFailure(TrainerExit.bad_config, "teacher_unusable", message, _PARAM))
        elif is_first:
            self._cache.report_event(f"line {prompt.line}: no further teacher answers for this row: {error}", warn=True)

    @property
    def _is_over(self) -> bool:
        """Whether enough rows in a row failed for the teacher to be at fault, not the rows."""
        return len(self._failed_in_a_row) >= max(2, min(MAX_FAILURES, len(self._needed)))

    def _end_or_give_up_rows(self, error: NoUsableResponse) -> None:
        """Ends the attempt, unless the teacher answers other rows and only a few failed: these are given up."""
        if not self._is_over or self._failure is not None:
            return  # decided by another thread
        rows = set(self._failed_in_a_row)
        if not self._answers_other_rows():
            self._fail(JobFailure(TrainerExit.dependency_down, "teacher_away", _sentence(error), _PARAM))
        elif len(rows) >= MAX_FAILURES:
            self._fail(JobFailure(TrainerExit.dependency_down, "teacher_rows_failed", _sentence(error), _PARAM, rows))
        else:
            with self._changed:
                self._failed_in_a_row -= rows
            message = f"{shown_lines(rows)}: no further teacher answers, although others are answered: {error}"
            self._cache.report_event(message, warn=True)

    def _answers_other_rows(self) -> bool:
        """Requests an answer to some rows that have not failed; it is not used."""
        others = [prompt for prompt in self._order.prompts if prompt.line not in self._failed]
        # Those that need no further answers come first: the teacher has probably answered them before.
        for prompt in sorted(others, key=lambda prompt: prompt.line in self._needed)[:PROBED_ROWS]:
            try:
                self._send(prompt, ("probe",), keep=False)
            except NoUsableResponse as error:
                if error.is_retryable:
                    continue
            return True
        return False

    def _fail(self, failure: JobFailure) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    def _report_progress(self) -> None:
        """Reports progress at each tenth of the rows, and once that the budget is exhausted."""
        done, total = len(self._settled), len(self._needed)
        if total and done * 10 // total > self._reported_rows * 10 // total:
            self._reported_rows = done
            spent, failed, unusable = self._ledger.spent, len(self._failed), self._cache.unusable
            self._cache.report_event(
                f"Teacher: {done:,} of {plural(total, 'row')}, {plural(spent.requests, 'request')} and "
                f"{plural(spent.tokens, 'token')} so far",
                rows=done,
                of=total,
                requests=spent.requests,
                tokens=spent.tokens,
                failed_rows=failed,
                unusable_answers=unusable,
            )
        if self._ledger.is_exhausted and not self._has_reported_exhaustion:
            self._has_reported_exhaustion = True
            spent = self._ledger.spent
            self._cache.report_event(
                f"The teacher budget is exhausted: {plural(spent.requests, 'request')}, "
                f"{plural(spent.tokens, 'token')}. The remaining "
                "rows train with the answers that they have",
                warn=True,
                requests=spent.requests,
                tokens=spent.tokens,
            )

    def _check_contrast(self, prompts: Sequence[Prompt]) -> None:
        """Raises `JobFailure` if the exhausted budget leaves a group with fewer than 2 members: it has no
        advantages."""
        if not self._ledger.is_exhausted or self._mix.self_:
            return
        for prompt in prompts:
            members = int(bool(self._mix.expert and prompt.turns)) + len(prompt.teacher_answers)
            if members + len(self._cache.usable(prompt)) < 2:
                raise JobFailure(
                    TrainerExit.bad_config,
                    "teacher_budget_spent",
                    f"The teacher budget is exhausted and the group of line {prompt.line} has fewer than 2 members, so "
                    "it has no advantages: raise teacher.budget, or set group.self to at least 1.",
                    f"{_PARAM}.budget",
                )


def _sentence(error: Exception) -> str:
    text = str(error).rstrip(".")
    return text[:1].upper() + text[1:]
