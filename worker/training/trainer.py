"""The training loop. One loop serves supervised, dft, reinforcement and gft: they differ in settings only. The groups
of dpo are pairs, and its loss compares their answers: see `preference`.

Each step samples rollouts, grades every group member, normalises rewards within each group (Group Advantage Learning)
and takes one optimiser step on - sum A C(p) log p / N (Dynamic Coefficient Rectification).

Deviations from the paper (Gan et al., arXiv 2604.14258), all deliberate:

1. The gradient is A C(p) grad log p, as in eq. 21. Eq. 22 counts 1/p twice. See `loss`.
2. N, the denominator, counts the tokens of the whole optimiser step over micro-batches and ranks. See `optimizer`.
3. A member whose grade fails leaves its group, and the others are normalised without it. See `rewards`.
4. Groups without contrast (equal rewards) have A = 0 and cost no forward or backward pass. See `optimizer`.
5. LoRA instead of full fine-tuning, so learning rates are about ten times higher. See `app.core.spec.plan`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from app.core.chat.tokenizer import ChatTokenizer
from app.core.graders.run import GraderPool
from app.core.plurals import plural
from app.core.spec.job import GroupMethod, MethodType, TrainerSpec
from app.core.spec.plan import Plan
from app.core.spec.policy_loss import AdvantageScaling
from app.core.spec.reports import CheckpointSaved, Finished, Groups, Message, Metrics, Started
from app.core.spec.row_results import RowResults
from worker.training import checkpoints, export, metrics
from worker.training.batching import DataOrder
from worker.training.best_adapter import BestAdapter
from worker.training.distributed import Ranks
from worker.training.divergence import DivergenceMonitor
from worker.training.groups import build_groups
from worker.training.held_out import HeldOut
from worker.training.interfaces import Reporter, RolloutEngine, StopFlag, TeacherAnswerSource
from worker.training.learning import LearningMonitor
from worker.training.model import Policy
from worker.training.optimizer import Updater, UpdateResult, combined
from worker.training.preference import pair_group
from worker.training.probe import write_probe
from worker.training.reference import TRAINING, Reference
from worker.training.resampling import replace_groups_without_contrast
from worker.training.rewards import GraderHealth, Grading, grades_other_rows, set_imitation_advantages
from worker.training.rollouts.sampler import generator
from worker.training.schedule import learning_rate
from worker.training.types import Prompt, PromptGroup

_DROPOUT_STREAM = 3


class Stopped(Exception):
    """The run stopped on request, after writing a checkpoint of the last finished step."""


@dataclass
class Trainer:
    """One job's training run over loaded parts. `step` counts finished optimiser steps."""

    trainer_spec: TrainerSpec
    plan: Plan
    policy: Policy
    tokenizer: ChatTokenizer
    sampler: RolloutEngine
    updater: Updater
    order: DataOrder
    pool: GraderPool | None
    held_out: HeldOut
    best_adapter: BestAdapter
    run_dir: Path
    report: Reporter
    stop: StopFlag
    teachers: TeacherAnswerSource | None = None
    rows: Mapping[str, Any] = field(default_factory=dict)
    """The numbers of rows that are used, for `Started`."""
    reference: Reference | None = None
    """What the answers of pairs are compared with (dpo only)."""
    ranks: Ranks = field(default_factory=Ranks)
    step: int = 0
    trained_tokens: int = 0
    """Tokens of all answers that counted in the loss."""
    computed_tokens: int = 0
    """Tokens that got a forward and a backward pass: answers without an advantage get none."""
    _grader_health: GraderHealth = field(init=False, default_factory=GraderHealth)
    _divergence: DivergenceMonitor = field(init=False)
    _learning: LearningMonitor = field(init=False)

    def __post_init__(self) -> None:
        if self.pool is not None:
            self._grader_health = GraderHealth(partial(grades_other_rows, self.pool, self.order.prompts))
        self._divergence = DivergenceMonitor(self.report)
        self._learning = LearningMonitor(self.report, self.plan.total_steps, self.updater.loss)

    def resume(self, checkpoint: Path) -> None:
        """Continues after the step of `checkpoint`. Raises `JobFailure` if the checkpoint is damaged."""
        state = checkpoints.load(checkpoint, self.policy, self.updater.optimizer, self.best_adapter, self.reference)
        self.step = self.policy.version = int(state["step"])
        self.trained_tokens = int(state["trained_tokens"])
        self.computed_tokens = int(state.get("computed_tokens", self.trained_tokens))  # absent in earlier versions
        self._learning.load_state(state.get("learning", {"updates": 1}))  # absent in checkpoints of earlier versions

    def train(self) -> None:
        """Trains to the last step or until early stopping, then publishes the best adapter.

        Raises `Stopped` after a stop request, once a checkpoint is written, and `JobFailure` if no step changed the
        adapter.
        """
        self._prepare_reference()
        self.report(self._started())
        if self.teachers is not None:
            self.teachers.begin(self.step + 1)
        if self.step == 0 and (before := self._evaluate()):
            self._report_result()
            self.report(Metrics(step=0, values=before))
        # All ranks leave the loop at the same step; one that left alone would strand the others in their next
        # collective. So stop flags are summed over ranks. Early stopping depends on evaluations, which all ranks share.
        while self.step < self.plan.total_steps and not self.best_adapter.early_stopping.should_stop:
            teacher_seconds = self._wait_for_teachers()
            if self.ranks.sum(self.stop.is_set()):
                self._checkpoint({})
                self.ranks.meet()  # the launcher ends the others once one has ended
                raise Stopped
            self._train_step(teacher_seconds)
        self._learning.check()
        self._publish()

    def _prepare_reference(self) -> None:
        """Scores all pairs with the policy that training starts from, unless a checkpoint had the numbers."""
        if self.reference is None or self.reference.is_complete:
            return
        started = time.monotonic()
        if not self.reference.compute(self.policy, self.updater.token_budget, self.ranks, self.stop):
            raise Stopped
        took = time.monotonic() - started
        message = f"Reference log-probabilities of {plural(self.reference.pairs, 'pair')} computed in {took:.3g} s"
        self.report(Message(message=message))

    def _train_step(self, teacher_seconds: float | None) -> None:
        step = self.step + 1
        started = time.monotonic()

        # Rollouts and rewards: one group per prompt, of its demonstration, teacher answers and samples from the current
        # policy. A_k = (R_k - mean R) / (std R + eps) within the group; A = 1 for supervised and dft.
        prompts = self._prompts(step)
        with self.sampler.awake(), self.policy.lockstep():
            groups, rollout_seconds = self._graded_groups(step, prompts)
            discarded, more_seconds = self._resample(step, groups)
        rollout_seconds += more_seconds
        graded = time.monotonic()

        # Update: AdamW on - sum A C(p) log p / N; several updates only if the job says so.
        rate = learning_rate(step, self.plan.total_steps, self.plan.learning_rate, self._lr_schedule)
        update = self._update(step, groups, rate)
        updated = time.monotonic()
        self.step = self.policy.version = step
        self.trained_tokens += update.trained_tokens
        self.computed_tokens += update.computed_tokens

        # Metrics: over the groups of all ranks; timings are those of this rank.
        groups = [group for share in self.ranks.gather(groups) for group in share]
        values = metrics.step_metrics(groups, update, self._grader_name) | {
            **metrics.loss_metrics(groups, update, self.updater.loss),
            "learning_rate": rate,
            "num_tokens": float(self.computed_tokens),
            "gft/timing/rollout": rollout_seconds,
            "gft/timing/grading": graded - started - rollout_seconds,
            "gft/timing/update": updated - graded,
            "step_time": updated - started + (teacher_seconds or 0.0),
            "gft/tokens_per_second": update.computed_tokens / max(updated - started, 1e-9),
            "gft/peak_memory_bytes": float(metrics.peak_bytes(self.policy.device)),
            "gft/mfu": metrics.mfu(
                self.policy.active_parameters,
                update.packed_tokens,
                updated - graded,
                metrics.peak_flops(self.policy.device),
            ),
        }
        if teacher_seconds is not None:
            values["gft/timing/teacher"] = teacher_seconds
        if self._resampling_rounds:
            values["gft/resampled_groups"] = float(self.ranks.sum(discarded))
        self._divergence.note(step, values)
        self._learning.note(groups, update)
        self.report(Groups(step=step, groups=metrics.group_records(groups)))

        # Evaluation and checkpoint, each at its interval and after the last step.
        is_last = step == self.plan.total_steps
        if is_last or step % self.plan.eval_interval == 0:
            values |= self._evaluate()
        self.report(Metrics(step=step, values=values, trained_tokens=self.trained_tokens))
        if is_last or step % self.plan.checkpoint_interval == 0:
            self._checkpoint(values)

    def _wait_for_teachers(self) -> float | None:
        """Waits for the next step's teacher answers and returns the seconds spent; None without a teacher."""
        if self.teachers is None:
            return None
        started = time.monotonic()
        self.teachers.prepare(self.step + 1, self.stop)
        return time.monotonic() - started

    def _new_grading(self) -> Grading | None:
        if not self._has_rewards or self.pool is None:
            return None
        return Grading(self.pool, has_idle_cores=not self.sampler.needs_cores)

    def _graded_groups(
        self, step: int, prompts: list[Prompt], resampling_round: int = 0
    ) -> tuple[list[PromptGroup], float]:
        """Returns graded groups and the seconds of their rollouts."""
        started = time.monotonic()
        grading = self._new_grading()
        groups = self._build_groups(step, prompts, grading, resampling_round)
        rolled_out = time.monotonic()
        if grading is not None:
            grading.finish(groups, self._grader_health, self._advantage_scaling)
        elif self._is_imitation:
            set_imitation_advantages(groups)
        return groups, rolled_out - started

    def _build_groups(
        self, step: int, prompts: list[Prompt], grading: Grading | None, resampling_round: int
    ) -> list[PromptGroup]:
        spec = self.trainer_spec.spec
        if self.reference is not None:
            return [pair_group(prompt, self.reference.of(TRAINING, prompt)) for prompt in prompts]
        build = partial(build_groups, on_member=grading.add) if grading else build_groups
        return build(
            prompts,
            spec.group,
            spec.settings.sampling,
            self.sampler,
            self.tokenizer,
            spec.seed,
            step,
            self.ranks.rank,
            resampling_round=resampling_round,
        )

    def _resample(self, step: int, groups: list[PromptGroup]) -> tuple[int, float]:
        """Replaces groups without contrast in place; returns the number replaced and the seconds of their rollouts."""
        if not self._resampling_rounds:
            return 0, 0.0
        seconds = 0.0

        def roll_out(prompts: Sequence[Prompt], number: int) -> list[PromptGroup]:
            nonlocal seconds
            found, more = self._graded_groups(step, list(prompts), number)
            seconds += more
            return found

        spare = self.ranks.share(self.order.spare(step))
        return replace_groups_without_contrast(groups, self._resampling_rounds, spare, roll_out), seconds

    def _update(self, step: int, groups: list[PromptGroup], rate: float) -> UpdateResult:
        # Dropout is a function of (seed, step), so a resumed run drops the same units. All updates on a batch drop the
        # same ones: the probability ratio of an unchanged policy is 1.
        dropout_seed = generator(self.trainer_spec.spec.seed, _DROPOUT_STREAM, step).initial_seed()
        updates: list[UpdateResult] = []
        for number in range(self._updates_per_batch):
            with self.policy.dropping(dropout_seed):
                updates.append(self.updater.update(groups, rate, number))
        return combined(updates)

    def _prompts(self, step: int) -> list[Prompt]:
        """Returns this rank's prompts of a step, with their teacher answers."""
        prompts = self.order.step(step)
        if self.teachers is not None:
            # Only rank 0 sends requests to the teacher, so all ranks take its answers.
            answers = self.ranks.gather(self.teachers.answers(prompts))[0]
            prompts = [
                replace(prompt, teacher_answers=prompt.teacher_answers + answers[prompt.line]) for prompt in prompts
            ]
        return self.ranks.share(prompts)

    def _evaluate(self) -> dict[str, float | None]:
        """Evaluates and returns the values; empty without held-out rows."""
        if (evaluated := self.held_out.evaluate(self.step)) is None:
            return {}
        is_best = self.held_out.selects and self.best_adapter.take(evaluated, self.policy)
        self.report(evaluated.model_copy(update={"best": is_best, "rows": RowResults()}))
        return evaluated.values

    def _report_result(self) -> None:
        """Evaluates the policy on the rows that report."""
        if (result := self.held_out.result(self.policy.version)) is not None:
            lines = self.held_out.selection_lines
            self.report(result.model_copy(update={"is_result": True, "selection_lines": lines}))

    def _checkpoint(self, values: dict[str, float | None]) -> None:
        if self.ranks.rank != 0:
            return
        state: dict[str, Any] = {
            "step": self.step,
            "trained_tokens": self.trained_tokens,
            "computed_tokens": self.computed_tokens,
            "learning": self._learning.state(),
        }
        path = self.run_dir / "checkpoints" / f"step-{self.step:08d}"
        checkpoints.save(
            path,
            self.policy,
            self.updater.optimizer,
            state,
            self.best_adapter,
            self.reference,
            # A checkpoint is also a model: for inference, as the start of another job, and to download.
            export=lambda directory: export.export_adapter(directory, self.policy, self.trainer_spec),
        )
        self.report(CheckpointSaved(step=self.step, path=str(path), metrics=values))

    def _publish(self) -> None:
        if self.step < self.plan.total_steps:
            patience, name = self.best_adapter.early_stopping.patience, self.best_adapter.metric_name
            early = f"Stopped early at step {self.step}: {patience} evaluations without a better {name}"
            self.report(Message(message=early))
        self.best_adapter.restore(self.policy)
        self._report_result()
        adapter = self.run_dir / "adapter"
        with self.policy.lockstep():
            if self.ranks.rank == 0:
                export.export_adapter(adapter, self.policy, self.trainer_spec)
                prompts = self.held_out.prompts or self.order.prompts
                write_probe(adapter, self.policy, prompts, self.tokenizer.end_ids)
        self.report(
            Finished(
                step=self.step,
                path=str(adapter),
                trained_tokens=self.trained_tokens,
                published_step=self.policy.version,
                reason=self.best_adapter.reason(self.step),
            )
        )

    @property
    def _has_rewards(self) -> bool:
        """Whether the grader grades the groups; other methods use it only for held-out rows."""
        return isinstance(self.trainer_spec.spec.settings, GroupMethod)

    @property
    def _resampling_rounds(self) -> int:
        settings = self.trainer_spec.spec.settings
        return settings.resampling_rounds if isinstance(settings, GroupMethod) else 0

    @property
    def _updates_per_batch(self) -> int:
        settings = self.trainer_spec.spec.settings
        return settings.updates_per_batch if isinstance(settings, GroupMethod) else 1

    @property
    def _advantage_scaling(self) -> AdvantageScaling:
        settings = self.trainer_spec.spec.settings
        return settings.advantage_scaling if isinstance(settings, GroupMethod) else "std"

    @property
    def _is_imitation(self) -> bool:
        return self.trainer_spec.spec.method in (MethodType.supervised, MethodType.dft)

    @property
    def _lr_schedule(self) -> str:
        return self.trainer_spec.spec.hyperparameters.lr_schedule

    @property
    def _grader_name(self) -> str | None:
        grader = self.trainer_spec.spec.settings.grader
        return grader.name if grader is not None and self._has_rewards else None

    def _started(self) -> Started:
        return Started(
            total_steps=self.plan.total_steps,
            resumed_from_step=self.step,
            batch_size=self.plan.batch_size,
            n_epochs=self.plan.n_epochs,
            learning_rate=self.plan.learning_rate,
            learning_rate_multiplier=self.plan.learning_rate_multiplier,
            rows=dict(self.rows),
            path=self.policy.path,
        )
