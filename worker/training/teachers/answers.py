"""Tracks which teacher answers a run needs, which it has, and which of those it can train on.

A row's own `teacher_responses` come first. The teacher supplies what is missing to `group.teacher` answers.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from app.core.chat.encoding import Turn, rules_of, turn
from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.job import TrainerSpec
from app.core.spec.reports import Message, TeacherAnswers
from app.core.spec.teacher_answers import Spent, TeacherAnswer, answer_key, question
from worker.training.interfaces import Reporter
from worker.training.types import Prompt, UsableAnswer

LOCAL = "local"
"""Provider name of answers by a base model of this installation."""


class TeacherAnswerCache:
    """The teacher answers of one run, by content address. Thread-safe."""

    def __init__(self, trainer_spec: TrainerSpec, tokenizer: ChatTokenizer, report: Reporter) -> None:
        """Loads the answers that the runner stored before the run. Raises `ValueError` for a job without a teacher."""
        teacher, settings = trainer_spec.spec.teacher, trainer_spec.spec.settings
        if teacher is None:
            raise ValueError("the job has no teacher")
        self._identity = teacher.identity(trainer_spec.teacher_url or LOCAL, settings.sampling)
        self._per_prompt = trainer_spec.spec.group.teacher
        self._rules = rules_of(trainer_spec.spec, trainer_spec.context_length)
        self._tokenizer = tokenizer
        self._report = report
        self._lock = threading.Lock()
        self._keys: dict[int, list[str]] = {}
        self._usable: dict[str, UsableAnswer | None] = {}
        self._answers = {answer.key: answer for answer in _read(trainer_spec.teacher_answers_path)}
        self._cached = set(self._answers)
        self.unusable = 0
        """Number of answers that were truncated, empty, or too long together with their prompt."""

    def keys(self, prompt: Prompt) -> list[str]:
        """Returns the keys of all answers that the prompt needs from the teacher."""
        if prompt.line not in self._keys:
            address = question(self._identity, prompt.messages, prompt.tools)
            self._keys[prompt.line] = [
                answer_key(address, number) for number in range(max(0, self._per_prompt - len(prompt.teacher_answers)))
            ]
        return self._keys[prompt.line]

    def missing(self, prompt: Prompt) -> list[str]:
        """Returns the keys of the answers that the prompt needs and the run does not have."""
        return [key for key in self.keys(prompt) if key not in self._answers]

    def cached(self, prompts: Sequence[Prompt]) -> int:
        """Returns the number of answers to these prompts that existed before the run."""
        return sum(key in self._cached for prompt in prompts for key in self.keys(prompt))

    def add(self, answers: Sequence[TeacherAnswer], spent: Callable[[], Spent]) -> None:
        """Adds answers and reports them to the runner, with the budget spent so far, for the project to store."""
        with self._lock:  # reports leave in the order of `spent`, so the reported total never decreases
            self._report(TeacherAnswers(answers=tuple(answers), spent=spent()))
            self._answers |= {answer.key: answer for answer in answers}

    def usable(self, prompt: Prompt) -> tuple[UsableAnswer, ...]:
        """Returns the answers to the prompt that can be trained on."""
        return tuple(usable for key in self.keys(prompt) if (usable := self._usable_answer(prompt, key)) is not None)

    def _usable_answer(self, prompt: Prompt, key: str) -> UsableAnswer | None:
        answer = self._answers.get(key)
        if answer is None:
            return None
        if key not in self._usable:
            turn = self._encoded(prompt, answer) if answer.finished and answer.content.strip() else None
            usable = UsableAnswer(turn, answer.provenance(cached=key in self._cached)) if turn else None
            self._usable[key] = usable
            self.unusable += usable is None
        return self._usable[key]

    def _encoded(self, prompt: Prompt, answer: TeacherAnswer) -> Turn | None:
        """Returns the answer as it is trained; None if it is too long, since a cut answer would lose its result."""
        message = {"role": "assistant", "content": answer.content}
        try:
            rendered = self._tokenizer.prompt(list(prompt.messages), prompt.tools)
            encoded = turn(self._tokenizer, rendered, message, self._rules)
        except TemplateRefused:
            return None
        return encoded if len(encoded.context) + len(encoded.ids) <= self._rules.max_length else None

    def report_event(self, message: str, *, warn: bool = False, **data: int) -> None:
        """Reports an event of the job."""
        self._report(Message(level="warn" if warn else "info", message=message, data=data or None))


def _read(path: str | None) -> list[TeacherAnswer]:
    if path is None:
        return []
    with Path(path).open(encoding="utf-8") as lines:
        return [TeacherAnswer.model_validate_json(line) for line in lines]
