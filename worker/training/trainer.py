"""The one loop: supervised, dft, reinforcement and gft are settings of it.

Deviations from arXiv 2604.14258, each on purpose: eq. 21's gradient (eq. 22 counts 1/p twice); the denominator is the
token count of the whole optimiser step; a failed grade leaves its group; groups without contrast cost no forward pass;
LoRA instead of full fine-tuning, so learning rates are about ten times higher.
"""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from app.core.chat.tokenizer import ChatTokenizer
from app.core.graders.run import GraderPool
from app.core.spec.job import MethodType, TrainerSpec
from app.core.spec.plan import Plan
from app.core.spec.reports import CheckpointSaved, Finished, Groups, Message, Metrics, Started
from worker.training import checkpoints, export, metrics
from worker.training.batching import DataOrder
from worker.training.best_adapter import BestAdapter
from worker.training.distributed import Ranks
from worker.training.divergence import DivergenceMonitor
from worker.training.evaluation import Evaluator
from worker.training.groups import build_groups
from worker.training.interfaces import Reporter, RolloutEngine, StopFlag, TeacherAnswerSource
from worker.training.model import Policy
from worker.training.optimizer import Updater, learning_rate
from worker.training.out_of_memory import peak_bytes
from worker.training.rewards import GraderHealth, Grading, imitate_groups
from worker.training.rollouts.sampler import generator
from worker.training.throughput import mfu, peak_flops
from worker.training.types import Prompt, PromptGroup

_DROPOUT_STREAM = 3


class Stopped(Exception):
    """A stop request was honoured; a checkpoint of the last finished step is written."""


@dataclass
class Trainer:
    """One job's run over loaded parts. `step` counts finished optimiser steps."""

    trainer_spec: TrainerSpec
    plan: Plan
    policy: Policy
    tokenizer: ChatTokenizer
    sampler: RolloutEngine
    updater: Updater
    order: DataOrder
    pool: GraderPool | None
    evaluator: Evaluator | None
    best_adapter: BestAdapter
    run_dir: Path
    report: Reporter
    stop: StopFlag
    base_name: str
    teachers: TeacherAnswerSource | None = None
    ranks: Ranks = field(default_factory=Ranks)
    divergence: DivergenceMonitor = field(init=False)
    _peak_flops: float | None = field(init=False)
    step: int = 0
    trained_tokens: int = 0

    def __post_init__(self) -> None:
        self.divergence = DivergenceMonitor(self.report)
        self._peak_flops = peak_flops(self.policy.device)

    def resume(self, checkpoint: Path) -> None:
        """Goes on after the step of `checkpoint`. Raises `JobFailure` when it was damaged."""
        state = checkpoints.load(checkpoint, self.policy, self.updater.optimizer, self.best_adapter)
        self.step = self.policy.version = int(state["step"])
        self.trained_tokens = int(state["trained_tokens"])

    def train(self) -> None:
        """Runs to the end, or raises `Stopped` after writing a checkpoint."""
        self.report(self._started())
        health = GraderHealth()
        if self.teachers is not None:
            self.teachers.begin(self.step + 1)
        if self.step == 0 and (before := self._evaluate()):
            self.report(Metrics(step=0, values=before))
        # All processes must leave the loop at the same step, so each asks the others.
        while self.step < self.plan.total_steps and not self.ranks.sum(self.best_adapter.should_stop):
            waited = self._wait_for_teachers()
            if self.ranks.sum(self.stop.is_set()):
                self._checkpoint({})
                raise Stopped
            self._one_step(health, waited)
        self._publish()

    def _publish(self) -> None:
        if self.step < self.plan.total_steps:
            patience = self.best_adapter.patience
            early = f"Stopped early at step {self.step}: {patience} evaluations without a better held-out reward"
            self.report(Message(message=early))
        if self.ranks.rank != 0:
            return
        self.best_adapter.restore(self.policy)
        adapter = export.export_adapter(self.run_dir / "adapter", self.policy, self.trainer_spec, self.base_name)
        self.report(
            Finished(
                step=self.step,
                path=str(adapter),
                trained_tokens=self.trained_tokens,
                published_step=self.policy.version,
                reason=self.best_adapter.reason(self.step),
            )
        )

    def _wait_for_teachers(self) -> float | None:
        """Seconds until the next step's teacher answers were there; None without a teacher."""
        if self.teachers is None:
            return None
        begun = time.monotonic()
        self.teachers.prepare(self.step + 1, self.stop)
        return time.monotonic() - begun

    def _prompts(self, step: int) -> list[Prompt]:
        """This process's prompts of a step, with the teacher's answers."""
        prompts = self.order.step(step)
        if self.teachers is not None:
            answers = self.ranks.gather(self.teachers.answers(prompts))[0]
            prompts = [replace(one, teacher_answers=one.teacher_answers + answers[one.line]) for one in prompts]
        return self.ranks.share(prompts)

    def _one_step(self, health: GraderHealth, waited: float | None) -> None:
        step = self.step + 1
        begun = time.monotonic()
        grading = (
            None
            if self._imitates or self.pool is None
            else Grading(self.pool, has_idle_cores=not self.sampler.needs_cores)
        )
        groups = self._groups(step, grading)
        rolled_out = time.monotonic()
        if self._imitates:
            imitate_groups(groups)
        elif grading is not None:
            grading.finish(groups, health)
        graded = time.monotonic()
        rate = learning_rate(
            step, self.plan.total_steps, self.plan.learning_rate, self.trainer_spec.spec.hyperparameters.lr_schedule
        )
        dropout_seed = generator(self.trainer_spec.spec.seed, _DROPOUT_STREAM, step).initial_seed()
        with self.policy.dropping(dropout_seed):
            update = self.updater.update(groups, rate)
        updated = time.monotonic()
        self.step = self.policy.version = step
        self.trained_tokens += update.trained_tokens
        timings: dict[str, float | None] = {
            "learning_rate": rate,
            "num_tokens": float(self.trained_tokens),
            "gft/timing/rollout": rolled_out - begun,
            "gft/timing/grading": graded - rolled_out,
            "gft/timing/update": updated - graded,
            "step_time": updated - begun + (waited or 0.0),
            "gft/tokens_per_second": update.trained_tokens / max(updated - begun, 1e-9),
            "gft/peak_memory_bytes": float(peak_bytes(self.policy.device)),
            "gft/mfu": mfu(self.policy.base_parameters, update.packed_tokens, updated - graded, self._peak_flops),
        }
        if waited is not None:
            timings["gft/timing/teacher"] = waited
        groups = [group for share in self.ranks.gather(groups) for group in share]
        values = metrics.step_metrics(groups, update, self._grader_name) | timings
        self.divergence.note(step, values)
        self.report(Groups(step=step, groups=metrics.group_records(groups)))
        last = step == self.plan.total_steps
        if last or step % self.plan.eval_interval == 0:
            values |= self._evaluate()
        self.report(Metrics(step=step, values=values, trained_tokens=self.trained_tokens))
        if last or step % self.plan.checkpoint_interval == 0:
            self._checkpoint(values)

    def _groups(self, step: int, grading: Grading | None) -> list[PromptGroup]:
        spec = self.trainer_spec.spec
        build = partial(build_groups, appeared=grading.add) if grading else build_groups
        return build(
            self._prompts(step),
            spec.group,
            spec.settings.sampling,
            self.sampler,
            self.tokenizer,
            spec.seed,
            step,
            self.ranks.rank,
        )

    def _evaluate(self) -> dict[str, float | None]:
        """Values of an evaluation by rank 0; none elsewhere or without held-out rows."""
        if self.evaluator is None or self.ranks.rank != 0:
            return {}
        evaluated = self.evaluator.evaluate(self.step)
        best = self.best_adapter.take(evaluated, self.policy)
        self.report(evaluated.model_copy(update={"best": best}))
        return evaluated.values

    def _checkpoint(self, values: dict[str, float | None]) -> None:
        if self.ranks.rank != 0:
            return
        state: dict[str, Any] = {"step": self.step, "trained_tokens": self.trained_tokens}
        path = self.run_dir / "checkpoints" / f"step-{self.step:08d}"
        checkpoints.save(path, self.policy, self.updater.optimizer, state, self.best_adapter)
        self.report(CheckpointSaved(step=self.step, path=str(path), metrics=values))

    @property
    def _imitates(self) -> bool:
        return self.trainer_spec.spec.method in (MethodType.supervised, MethodType.dft)

    @property
    def _grader_name(self) -> str | None:
        grader = self.trainer_spec.spec.settings.grader
        return None if grader is None or self._imitates else grader.name

    def _started(self) -> Started:
        return Started(
            total_steps=self.plan.total_steps,
            resumed_from_step=self.step,
            batch_size=self.plan.batch_size,
            n_epochs=self.plan.n_epochs,
            learning_rate=self.plan.learning_rate,
            learning_rate_multiplier=self.plan.learning_rate_multiplier,
        )
