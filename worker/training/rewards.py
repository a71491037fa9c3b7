"""Rewards and advantages: grades every group member, demonstrations included, and tracks grader errors."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Final

from app.core.graders.run import Grade, GraderPool, Sample
from app.core.plurals import plural
from app.core.spec.advantages import group_advantages, has_contrast
from app.core.spec.policy_loss import AdvantageScaling
from app.core.spec.reports import TrainerExit
from app.core.spec.rows import shown_lines
from worker.training.types import GroupMember, JobFailure, Prompt, PromptGroup

WINDOW: Final = 200
"""Number of recent grades over which the error rate is computed."""
MAX_ERROR_RATE: Final = 0.10
PROBED_ROWS: Final = 3
"""Other rows to grade in order to decide whether a grader's server is unavailable or fails on certain rows."""
_PARAM: Final = "method.grader"


class GraderHealth:
    """Ends the attempt when more than 10 % of the recent grades are errors.

    The job fails if the grader is at fault. If a server was unavailable each time, the job waits for it instead.
    """

    def __init__(self, grades_other_rows: Callable[[Collection[int]], bool] = lambda _lines: False) -> None:
        """`grades_other_rows` returns whether the grader's servers now work for rows other than those lines."""
        self._grades_other_rows = grades_other_rows
        self._recent: deque[tuple[int, Grade]] = deque(maxlen=WINDOW)
        self.errors = 0

    def note(self, line: int, grade: Grade) -> None:
        """Counts a grade of the row at `line`. Raises `JobFailure` with the grader's message if too many failed."""
        self._recent.append((line, grade))
        if grade.reward is not None:
            return
        self.errors += 1
        failed = [(line, recent) for line, recent in self._recent if recent.reward is None]
        # The limit is absolute (20 errors), so it also applies before the window is full. A short job never fills it.
        if len(failed) > MAX_ERROR_RATE * WINDOW:
            raise self._failure(failed)

    def check_step(self, grades: Collection[tuple[int, Grade]]) -> None:
        """Raises `JobFailure` if a server is unavailable and left all answers of a step without a grade.

        Such a step changes nothing. A short job would end with nothing but such steps.
        """
        lines = {line for line, _ in grades}
        if grades and all(grade.is_transient for _, grade in grades) and not self._grades_other_rows(lines):
            error = next(grade.error for _, grade in grades)
            raise _unavailable(f"No answer of a step could be graded ({len(grades)} tried): {error}")

    def _failure(self, failed: Sequence[tuple[int, Grade]]) -> JobFailure:
        lines, latest = {line for line, _ in failed}, failed[-1][1].error
        summary = f"{len(failed)} of the last {plural(len(self._recent), 'grade')} failed"
        if not all(grade.is_transient for _, grade in failed):
            message = f"{summary} ({shown_lines(lines)}). Latest error: {latest}"
            return JobFailure(TrainerExit.bad_data, "grader_errors", message, _PARAM)
        message = f"{summary}. Latest error: {latest}"
        if self._grades_other_rows(lines):
            return JobFailure(TrainerExit.dependency_down, "grader_rows_failed", message, _PARAM, lines)
        return _unavailable(message)


def _unavailable(message: str) -> JobFailure:
    return JobFailure(TrainerExit.dependency_down, "grader_unavailable", message, _PARAM)


def grades_other_rows(pool: GraderPool, prompts: Sequence[Prompt], lines: Collection[int]) -> bool:
    """Returns whether the servers of the grader respond for some of `prompts` that are not at `lines`.

    Any text will do as an answer, since the reward is not used.
    """
    others = [prompt for prompt in prompts if prompt.line not in lines][:PROBED_ROWS]
    pairs = [(Sample(output_text=prompt.text or "?"), prompt.item) for prompt in others]
    # One by one: a row on which the server fails too must not fail the others of its request.
    return any(not grade.is_transient for pair in pairs for grade in pool.grade_many([pair]))


def grade_answers(
    pool: GraderPool, prompts: Sequence[Prompt], answers: Sequence[tuple[Prompt, Sample]], what: str
) -> list[Grade]:
    """Returns one grade per answer, in order; an answer is graded again if a server was unavailable for it.

    Raises `JobFailure` if the server is unavailable for all of `prompts`: without these grades the result would look
    better or worse than it is. A server that fails on some rows only is an error of these rows. `what` names an answer
    in the message.
    """
    grades: list[Grade] = []
    # In parts, so that an outage does not cost the retries of all answers.
    for start in range(0, len(answers), WINDOW):
        part = answers[start : start + WINDOW]
        pairs = [(sample, prompt.item) for prompt, sample in part]
        found = pool.grade_many(pairs)
        away = [number for number, grade in enumerate(found) if grade.is_transient]
        # One by one: a row on which the server fails must not fail the others of its request.
        retried = [pool.submit([pairs[number]])[0] for number in away]
        for number, future in zip(away, retried, strict=True):
            found[number] = future.result()[0]
        failed = {part[number][0].line: found[number].error for number in away if found[number].is_transient}
        if failed and not grades_other_rows(pool, prompts, failed):
            message = f"{plural(len(failed), what)} could not be graded. Latest error: {list(failed.values())[-1]}"
            raise _unavailable(message)
        grades += found
    return grades


class Grading:
    """Grades the members of one step, overlapping with sampling where that costs the sampler nothing.

    Graders on other machines receive members as they complete, so their latency hides behind sampling. Graders on this
    machine wait until sampling is done, unless it leaves the CPU cores idle.
    """

    def __init__(self, pool: GraderPool, *, has_idle_cores: bool = False) -> None:
        """`has_idle_cores`: sampling runs elsewhere, so local graders can run at the same time."""
        self._pool = pool
        self._is_eager = pool.waits or has_idle_cores
        self._lock = threading.Lock()
        self._pending: list[tuple[Prompt, GroupMember]] = []
        self._submitted: list[tuple[list[tuple[Prompt, GroupMember]], Future[list[Grade]]]] = []

    def add(self, prompt: Prompt, member: GroupMember) -> None:
        """Adds a member to grade. Thread-safe."""
        with self._lock:
            self._pending.append((prompt, member))
            if self._is_eager and len(self._pending) >= self._pool.batch_size:
                self._submit()

    def _submit(self) -> None:
        members, self._pending = self._pending, []
        pairs = [(member.sample, prompt.item) for prompt, member in members]
        chunks = self._pool.submit(pairs)
        size = self._pool.batch_size
        for number, chunk in enumerate(chunks):
            self._submitted.append((members[number * size : (number + 1) * size], chunk))

    def finish(self, groups: list[PromptGroup], health: GraderHealth, scaling: AdvantageScaling = "std") -> None:
        """Waits for all grades and sets reward and advantage of every member of `groups`.

        Every member must have been added before. A member whose grade failed keeps None for both and leaves its group;
        it never gets reward 0.
        """
        with self._lock:
            self._submit()
        grades: list[tuple[int, Grade]] = []
        for members, chunk in self._submitted:
            for (prompt, member), grade in zip(members, chunk.result(), strict=True):
                health.note(prompt.line, grade)
                grades.append((prompt.line, grade))
                member.reward, member.error, member.scores = grade.reward, grade.error, dict(grade.scores)
        health.check_step(grades)
        _set_group_advantages(groups, scaling)


def _set_group_advantages(groups: list[PromptGroup], scaling: AdvantageScaling) -> None:
    # A_k = (R_k - mean_G R) / (std_G R + eps), over the whole hybrid group: normalising each source on its own would
    # hide that demonstrations are better or worse than rollouts.
    for group in groups:
        rewards = [member.reward for member in group.members]
        for member, advantage in zip(group.members, group_advantages(rewards, scaling), strict=True):
            member.advantage = advantage
        group.zero_variance = not has_contrast([reward for reward in rewards if reward is not None])


def set_imitation_advantages(groups: list[PromptGroup]) -> None:
    """Sets A = 1 for every member: supervised and dft train on demonstrations only and grade nothing."""
    for group in groups:
        for member in group.members:
            member.advantage = 1.0
