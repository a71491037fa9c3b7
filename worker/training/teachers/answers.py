"""Which answers a run's prompts want from the teacher, which of them are there, and what becomes of them.

A row's own `teacher_responses` come first; the teacher is asked for what is missing to `group.teacher`.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.job import TrainerSpec
from app.core.spec.reports import Message, TeacherAnswers
from app.core.spec.teacher_answers import Spent, TeacherAnswer, answer_key, question
from worker.training.interfaces import Reporter
from worker.training.types import Prompt, UsableAnswer

LOCAL = "local"
"""Provider of what a base model of this installation has written."""


class TeacherAnswerCache:
    """The teacher's answers of one run. Thread-safe."""

    def __init__(self, trainer_spec: TrainerSpec, tokenizer: ChatTokenizer, report: Reporter) -> None:
        """With the answers that the runner knew. Raises `ValueError` for a job without a teacher."""
        teacher, settings = trainer_spec.spec.teacher, trainer_spec.spec.settings
        if teacher is None:
            raise ValueError("the job has no teacher")
        self._identity = teacher.identity(trainer_spec.teacher_url or LOCAL, settings.sampling)
        self._wanted = trainer_spec.spec.group.teacher
        self._max_length = settings.hyperparameters.max_length
        self._tokenizer = tokenizer
        self._report = report
        self._lock = threading.Lock()
        self._keys: dict[int, list[str]] = {}
        self._answers: dict[str, TeacherAnswer] = {}
        self._usable: dict[str, UsableAnswer | None] = {}
        self._known = _read(trainer_spec.teacher_answers_path)
        self._answers |= {one.key: one for one in self._known}
        self._cached = set(self._answers)
        self.unusable = 0
        """Answers that were cut off, or are too long with their prompt."""

    def keys(self, prompt: Prompt) -> list[str]:
        """Of all answers that the prompt wants from the teacher."""
        if prompt.line not in self._keys:
            asked = question(self._identity, prompt.messages, prompt.tools)
            self._keys[prompt.line] = [
                answer_key(asked, number) for number in range(max(0, self._wanted - len(prompt.teacher_answers)))
            ]
        return self._keys[prompt.line]

    def missing(self, prompt: Prompt) -> list[str]:
        """Keys of the answers that are still to be had."""
        return [key for key in self.keys(prompt) if key not in self._answers]

    def cached(self, prompts: Sequence[Prompt]) -> int:
        """How many answers to these prompts were there before the run."""
        return sum(key in self._cached for prompt in prompts for key in self.keys(prompt))

    def add(self, answers: Sequence[TeacherAnswer], spent: Callable[[], Spent]) -> None:
        """Takes answers in and hands them on for the project, with what was spent so far."""
        with self._lock:  # so that what was spent only grows from one report to the next
            self._report(TeacherAnswers(answers=tuple(answers), spent=spent()))
            self._answers |= {one.key: one for one in answers}

    def usable(self, prompt: Prompt) -> tuple[UsableAnswer, ...]:
        """The answers to the prompt that can be trained on."""
        return tuple(found for key in self.keys(prompt) if (found := self._usable_answer(prompt, key)) is not None)

    def _usable_answer(self, prompt: Prompt, key: str) -> UsableAnswer | None:
        answer = self._answers.get(key)
        if answer is None:
            return None
        if key not in self._usable:
            fits = answer.finished and bool(answer.content.strip()) and self._fits(prompt, answer.content)
            usable = UsableAnswer(answer.content, answer.provenance(cached=key in self._cached))
            self._usable[key] = usable if fits else None
            self.unusable += not fits
        return self._usable[key]

    def _fits(self, prompt: Prompt, text: str) -> bool:
        """As demonstrations: what is too long is left out, for cut off it would lose its answer."""
        return len(prompt.ids) + len(self._tokenizer.response_ids(text)) <= self._max_length

    def say(self, message: str, *, warn: bool = False, **data: int) -> None:
        """An event of the job."""
        self._report(Message(level="warn" if warn else "info", message=message, data=data or None))


def _read(path: str | None) -> list[TeacherAnswer]:
    if path is None:
        return []
    with Path(path).open(encoding="utf-8") as lines:
        return [TeacherAnswer.model_validate_json(line) for line in lines]
