"""Teacher answers from a base model of this installation, sampled before training by the trainer's own sampler.

Batches depend on the data order only, and samples on batch and seed only, so a run that is interrupted while it samples
resumes with the same answers.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import torch

from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer
from app.core.plurals import plural
from app.core.spec.job import Lora, Teacher, TrainerSpec
from app.core.spec.plan import MAX_SEQUENCES
from app.core.spec.reports import TrainerExit
from app.core.spec.teacher_answers import Spent, TeacherAnswer, share, storable
from worker.training.batching import DataOrder
from worker.training.distributed import Ranks
from worker.training.interfaces import StopFlag
from worker.training.model import Policy, load_policy
from worker.training.rollouts.sampler import Sampler, generator
from worker.training.rollouts.sampler_check import check_sampler
from worker.training.teachers.answers import LOCAL, TeacherAnswerCache
from worker.training.tokenize import load_tokenizer
from worker.training.types import JobFailure, Prompt, UsableAnswer

_STREAM: Final = 6


class LocalTeacher:
    """Samples all teacher answers with a base model; the ranks share the batches."""

    def __init__(
        self,
        trainer_spec: TrainerSpec,
        teacher: Teacher,
        cache: TeacherAnswerCache,
        student: Policy,
        order: DataOrder,
        total_steps: int,
        ranks: Ranks,
    ) -> None:
        """`trainer_spec` names the model directory; the student is reused where the base model is the same."""
        self._trainer_spec = trainer_spec
        self._directory = Path(trainer_spec.teacher_model_dir or "")
        self._sampling = teacher.sampling or trainer_spec.spec.settings.sampling
        self._limit = teacher.budget.tokens
        self._cache = cache
        self._student = student
        self._order = order
        self._total_steps = total_steps
        self._ranks = ranks
        self._is_done = False

    def close(self) -> None:
        """Does nothing: no connection is open."""

    def begin(self, step: int) -> None:
        """Does nothing: `prepare` samples all answers before the first step."""

    def prepare(self, step: int, stop: StopFlag) -> None:
        """Before the run's first step, samples every missing answer of it and all later steps.

        Returns early on `stop`.
        """
        if self._is_done:
            return
        rows = {
            prompt.line: prompt for coming in range(step, self._total_steps + 1) for prompt in self._order.step(coming)
        }
        # All rows that need answers, not only those that lack them: batches must not depend on what is cached, or a
        # resumed run would sample other answers.
        needing = [prompt for prompt in rows.values() if self._cache.keys(prompt)]
        size = max(1, MAX_SEQUENCES // max(1, self._trainer_spec.spec.group.teacher))
        batches = [needing[start : start + size] for start in range(0, len(needing), size)]
        missing = [number for number, batch in enumerate(batches) if any(map(self._cache.missing, batch))]
        self._is_done = not missing or self._sample_all(batches, missing, stop)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # return the teacher's memory

    def answers(self, prompts: Sequence[Prompt]) -> dict[int, tuple[UsableAnswer, ...]]:
        """Returns the teacher answers by the line of their row."""
        return {prompt.line: self._cache.usable(prompt) for prompt in prompts}

    def _sample_all(self, batches: Sequence[Sequence[Prompt]], missing: Sequence[int], stop: StopFlag) -> bool:
        rows = sum(len(batches[number]) for number in missing)
        self._cache.report_event(
            f"Teacher {self._directory.name}: writing answers for {plural(rows, 'row')} before training starts", of=rows
        )
        spent, done = self._trainer_spec.teacher_spent, 0
        with self._teacher() as (policy, tokenizer):
            sampler = Sampler(policy, tokenizer.end_ids, tokenizer.pad_id)
            for start in range(0, len(missing), self._ranks.size):
                if self._ranks.sum(stop.is_set()):
                    return False
                if self._limit is not None and spent.tokens >= self._limit:
                    message = (
                        f"The teacher budget is exhausted: {plural(spent.tokens, 'token')}. No teacher answers for "
                        f"{plural(rows - done, 'row')}"
                    )
                    self._cache.report_event(message, warn=True, tokens=spent.tokens)
                    return True
                numbers = self._ranks.share(missing[start : start + self._ranks.size])
                with policy.lockstep():
                    sampled = [
                        answer
                        for number in numbers
                        for answer in self._sample(sampler, tokenizer, number, batches[number])
                    ]
                answers = [answer for share in self._ranks.gather(sampled) for answer in share]
                used = sum(answer.prompt_tokens + answer.completion_tokens for answer in answers)
                spent = Spent(requests=spent.requests, tokens=spent.tokens + used)
                self._cache.add(answers, spent.model_copy)
                done += sum(len(batches[number]) for number in missing[start : start + self._ranks.size])
                self._cache.report_event(
                    f"Teacher: {done:,} of {plural(rows, 'row')}", rows=done, of=rows, tokens=spent.tokens
                )
        return True

    @contextmanager
    def _teacher(self) -> Iterator[tuple[Policy, ChatTokenizer]]:
        tokenizer = load_tokenizer(self._directory)
        is_students = self._directory == Path(self._trainer_spec.base_model_dir)
        if is_students and self._trainer_spec.spec.hyperparameters.base_precision == "native":
            yield self._student, tokenizer
        else:
            longest = self._trainer_spec.spec.hyperparameters.max_length
            wanted = self._trainer_spec.spec.hyperparameters.sharding
            lora = Lora(r=1, alpha=1)
            teacher = load_policy(self._directory, lora, seed=0, max_length=longest, sharding=wanted, ranks=self._ranks)
            check_sampler(teacher, self._directory, longest)
            yield teacher, tokenizer

    def _sample(
        self, sampler: Sampler, tokenizer: ChatTokenizer, number: int, batch: Sequence[Prompt]
    ) -> list[TeacherAnswer]:
        """Returns the missing answers for the rows of batch `number`."""
        prompts = [_prompt_ids(tokenizer, prompt) for prompt in batch]
        count = max(len(self._cache.keys(prompt)) for prompt in batch)
        random = generator(self._trainer_spec.spec.seed, _STREAM, number)
        with sampler.policy.base_only():
            samples = sampler.sample(prompts, count, self._sampling, random)
        now, answers = datetime.now(UTC), []
        for prompt, ids, completions in zip(batch, prompts, samples, strict=True):
            keys, missing = self._cache.keys(prompt), set(self._cache.missing(prompt))
            for place, (key, completion) in enumerate(zip(keys, completions, strict=False)):
                if key in missing:
                    answers.append(
                        TeacherAnswer(
                            key=key,
                            content=storable(tokenizer.text(completion.ids)),
                            finished=completion.finished,
                            model=self._directory.name,
                            provider=LOCAL,
                            answered_at=now,
                            prompt_tokens=share(len(ids), len(keys), place),
                            completion_tokens=len(completion.ids),
                        )
                    )
        return answers


def _prompt_ids(tokenizer: ChatTokenizer, prompt: Prompt) -> tuple[int, ...]:
    try:
        return tokenizer.prompt_ids(list(prompt.messages), prompt.tools)
    except TemplateRefused as error:
        message = f"line {prompt.line}: the teacher's chat template rejects the row: {error.message}"
        raise JobFailure(TrainerExit.bad_data, "teacher_refused", message, "method.gft.teacher.model") from error
