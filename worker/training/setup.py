"""Run set-up: reads spec.json, loads model, data and services, runs the trainer, and returns an exit code."""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import torch
import transformers
from safetensors import SafetensorError

from app.core.chat.encoding import Drop, RowRules, held_out_rules, rules_of
from app.core.chat.tokenizer import ChatTokenizer
from app.core.graders.run import ExternalServices, GraderPool
from app.core.graders.toolbox import RETRY_POLICY as GRADER_RETRY_POLICY
from app.core.retry import RetryPolicy
from app.core.spec.job import GroupMethod, JobSpec, Lora, MethodType, PreferenceMethod, TrainerSpec
from app.core.spec.plan import TOKEN_BUDGET
from app.core.spec.reports import Failed, Message, Report, TrainerExit, TrainingPath
from app.core.spec.subprocess_environment import JUDGE_API_KEY, SIGNING_SECRET
from worker.training import run_log
from worker.training.batching import DataOrder
from worker.training.best_adapter import BestAdapter
from worker.training.demonstrations import before_grading, passing
from worker.training.distributed import SECONDS_TO_END, PeerLost, Ranks
from worker.training.early_stopping import EarlyStopping
from worker.training.evaluation import Evaluator
from worker.training.failures import diagnose
from worker.training.held_out import HeldOut
from worker.training.held_out_pairs import HeldOutPairs
from worker.training.held_out_rows import HeldOutRows, assign
from worker.training.interfaces import Reporter, RolloutEngine, StopFlag
from worker.training.model import Policy, load_policy, pick_device
from worker.training.optimizer import Updater, new_optimizer
from worker.training.planning import plan_run
from worker.training.policy_loss import PolicyLoss
from worker.training.preference import PairLoss
from worker.training.process_group import joined, own_rank
from worker.training.reference import TEST, Reference
from worker.training.rollouts.engine import open_engine, vacate_devices
from worker.training.rollouts.sampler_check import check_sampler
from worker.training.sharding import report_sharding
from worker.training.teachers.factory import open_teachers
from worker.training.tokenize import load_prompts, load_tokenizer, loss_summary
from worker.training.trainer import Stopped, Trainer
from worker.training.types import JobFailure, Prompt


def run(run_dir: Path, reports: TextIO, stop: StopFlag, *, retry_policy: RetryPolicy | None = None) -> int:
    """Runs the job of `run_dir`, writes its reports as JSON lines, and returns the exit code.

    `retry_policy` replaces those for requests to rollout servers, teachers and graders.
    """
    trainer_spec = TrainerSpec.model_validate(json.loads((run_dir / "spec.json").read_text(encoding="utf-8")))
    run_log.open_log()
    report_log = run_log.ReportLog()
    write_lock = threading.Lock()  # threads that fetch teacher answers report too

    def write_report(report: Report) -> None:
        if own_rank() == 0 or isinstance(report, Failed):  # other ranks would repeat every step
            report_log.note(report)
            with write_lock:
                reports.write(report.model_dump_json() + "\n")
                reports.flush()

    def fail(failure: JobFailure) -> TrainerExit:
        write_report(failure.report(trainer_spec.spec.method))
        return TrainerExit(failure.exit_code)

    try:
        with joined(trainer_spec.processes * trainer_spec.nodes, lambda failure: os._exit(fail(failure))) as ranks:
            _train(trainer_spec, ranks, run_dir, write_report, stop, retry_policy)
    except Stopped:
        return TrainerExit.stopped
    except PeerLost as error:
        print(error, file=sys.stderr)  # noqa: T201 - the trainer's log
        stop.wait(SECONDS_TO_END)  # the launcher, which sees the first failure, ends this process
        return TrainerExit.peer_lost
    except JobFailure as failure:
        return fail(failure)
    except (OSError, MemoryError, RuntimeError, SafetensorError) as error:
        machine_failure = diagnose(error)
        if machine_failure is None:
            raise
        return fail(machine_failure)
    return TrainerExit.succeeded


def _train(
    trainer_spec: TrainerSpec,
    ranks: Ranks,
    run_dir: Path,
    report: Reporter,
    stop: StopFlag,
    retry_policy: RetryPolicy | None,
) -> None:
    spec = trainer_spec.spec
    torch.set_num_threads(trainer_spec.threads or os.cpu_count() or 1)
    # Not on a GPU, where equal bits are not promised and deterministic kernels are slow. The mode also fills every new
    # tensor, which costs time: no code here reads uninitialised memory.
    torch.use_deterministic_algorithms(mode=pick_device().type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    transformers.utils.logging.disable_progress_bar()
    if ranks.rank == 0:
        run_log.note_start(trainer_spec, pick_device())
    base_dir = Path(trainer_spec.base_model_dir)
    tokenizer = load_tokenizer(base_dir).using(spec.chat_template_kwargs, trainer_spec.created_at)
    prompts, validation, test, rows = _load_data(trainer_spec, tokenizer, report)
    if spec.grades_demonstrations:
        outside = _outside(trainer_spec, retry_policy)
        prompts, rows["rows"] = passing(trainer_spec, prompts, rows["rows"], outside, ranks, report, stop)
    vacate_devices(trainer_spec, ranks, stop, retry_policy)
    start = Path(trainer_spec.adapter_path) if trainer_spec.adapter_path else None
    wanted = spec.hyperparameters
    started = time.monotonic()
    # Jobs of earlier versions may hold defaults that were not sent. Their adapter keeps its own settings.
    lora = None if start is not None and not spec.lora_resolved else wanted.lora
    policy = load_policy(
        base_dir,
        lora,
        spec.seed,
        adapter=start,
        precision=wanted.base_precision,
        max_length=wanted.max_length,
        sharding=wanted.sharding,
        ranks=ranks,
    )
    check_sampler(policy, base_dir, wanted.max_length)
    if ranks.rank == 0:
        run_log.note_model(policy, str(base_dir), time.monotonic() - started, wanted.base_precision)
    if wanted.base_precision != "native":
        size = policy.causal.get_memory_footprint() / 1e9
        report(Message(message=f"Base model loaded in {wanted.base_precision}: {size:.3g} GB including the adapter"))
    _report_path(policy, wanted.lora, report)
    report_sharding(policy.sharded, policy.causal, wanted.sharding, ranks, report)
    plan = plan_run(trainer_spec, prompts, tokenizer, policy.active_parameters)
    held_out = assign(validation, test, plan.eval_samples)
    if trainer_spec.resume_from is None and (use := held_out.message()) is not None:
        report(use)
    pair_loss = _pair_loss(spec)
    if start is not None and _compares_with_start(spec, held_out):
        policy.keep_start()  # a checkpoint to resume from is loaded later
    reference = _reference(prompts, held_out) if pair_loss else None
    updater = _updater(trainer_spec, policy, report, ranks, pair_loss)
    pairs = HeldOutPairs(pair_loss, reference, updater.token_budget) if pair_loss and reference else None
    order = DataOrder(prompts, plan.batch_size, plan.n_epochs, spec.seed)
    with (
        open_engine(trainer_spec, policy, tokenizer, ranks, run_dir, stop, retry_policy) as sampler,
        GraderPool(spec.settings.grader, _outside(trainer_spec, retry_policy))
        if spec.settings.grader
        else nullcontext() as pool,
        open_teachers(
            trainer_spec, order, plan.total_steps, policy, tokenizer, ranks, report, retry_policy
        ) as teachers,
    ):
        trainer = Trainer(
            trainer_spec=trainer_spec,
            plan=plan,
            policy=policy,
            tokenizer=tokenizer,
            sampler=sampler,
            updater=updater,
            order=order,
            pool=pool,
            held_out=_evaluators(spec, held_out, sampler, tokenizer, pool, pairs, ranks),
            best_adapter=BestAdapter(
                EarlyStopping(spec.settings.evaluation.patience),
                metric="eval/reward" if spec.settings.grader else "eval/loss",
            ),
            run_dir=run_dir,
            report=report,
            stop=stop,
            teachers=teachers,
            rows=rows,
            reference=reference,
            ranks=ranks,
        )
        if trainer_spec.resume_from is not None:
            trainer.resume(Path(trainer_spec.resume_from))
        trainer.train()


def _compares_with_start(spec: JobSpec, held_out: HeldOutRows) -> bool:
    """Returns whether divergences from the starting policy are computed: in the loss, or in evaluations."""
    has_divergence = isinstance(spec.settings, GroupMethod) and spec.settings.kl_coefficient > 0
    return has_divergence or bool(held_out.selection or held_out.reporting)


def _report_path(policy: Policy, wanted: Lora, report: Reporter) -> None:
    """Reports changes of the base model, the reason for the plain path, and which experts carry an adapter."""
    for note in policy.notes:
        report(Message(message=note))
    path = policy.path
    if path.name == "plain":
        message = (
            f"Training takes the plain path: {path.reason}. Log-probabilities come from transformers' own forward pass "
            "for one sequence at a time, which is correct but slower. The embedded engine decodes the model likewise"
        )
        report(Message(level="warn", message=message, data=path.model_dump()))
    if path.expert_lora_coverage is not None:
        report(expert_message(path, wanted))


def expert_message(path: TrainingPath, wanted: Lora) -> Message:
    """Returns what the adapter of a mixture of experts covers, or why it leaves out the experts."""
    covered = f"{path.lora_coverage:.0%} of the base model's weights"
    if path.expert_lora_coverage:
        share = f"{path.expert_lora_coverage:.0%} of its experts' weights"
        return Message(message=f"The adapter covers {covered} and {share}", data=path.model_dump())
    if wanted.target_modules != "all-linear":
        cause = "lora.target_modules leaves them out"
    elif wanted.dropout or wanted.use_dora:
        cause = "LoRA dropout and DoRA do not work on them. Omit both to train experts"
    else:
        cause = "PEFT and vLLM load no adapter for experts of this form"
    message = f"The experts of this model carry no adapter, because {cause}. The adapter covers {covered}"
    return Message(level="warn", message=message, data=path.model_dump())


def _outside(trainer_spec: TrainerSpec, retry_policy: RetryPolicy | None) -> ExternalServices:
    return ExternalServices(
        retry_policy=retry_policy or GRADER_RETRY_POLICY,
        judge_url=trainer_spec.judge_url,
        judge_api_key=os.environ.get(JUDGE_API_KEY),
        allowed_private_hosts=trainer_spec.allowed_private_hosts,
        signing_secret=os.environ.get(SIGNING_SECRET),
    )


def _pair_loss(spec: JobSpec) -> PairLoss | None:
    if not isinstance(spec.settings, PreferenceMethod):
        return None
    wanted = spec.settings.hyperparameters
    return PairLoss(wanted.resolved_beta, wanted.label_smoothing)


def _policy_loss(spec: JobSpec, *, is_served: bool) -> PolicyLoss:
    settings = spec.settings
    if not isinstance(settings, GroupMethod):
        return PolicyLoss(spec.tau)
    return PolicyLoss(
        spec.tau,
        settings.zero_variance,
        settings.kl_coefficient,
        settings.loss_normalization,
        settings.sampling.max_tokens,
        settings.mask_truncated,
        settings.off_policy_push_down == "full",
        # GFT has no importance weights, so a gft job has them only on request.
        settings.resolved_importance_cap(is_on=is_served and spec.method is MethodType.reinforcement),
        settings.clip,
    )


def _updater(
    trainer_spec: TrainerSpec, policy: Policy, report: Reporter, ranks: Ranks, pair_loss: PairLoss | None
) -> Updater:
    spec, is_served = trainer_spec.spec, bool(trainer_spec.rollout_urls)

    def warn(budget: int) -> None:
        report(Message(level="warn", message=f"Out of memory: micro-batches now hold at most {budget} tokens"))

    settings = spec.settings
    grouped = isinstance(settings, GroupMethod)
    return Updater(
        policy,
        new_optimizer(policy),
        loss=_policy_loss(spec, is_served=is_served),
        temperature=settings.sampling.temperature if grouped else 1.0,
        token_budget=policy.token_budget,
        on_shrink=warn,
        ranks=ranks,
        pair_loss=pair_loss,
    )


def _reference(prompts: list[Prompt], held_out: HeldOutRows) -> Reference:
    if held_out.is_test_file:
        return Reference(prompts, held_out.selection, held_out.reporting)
    return Reference(prompts, held_out.selection + held_out.reporting)


def _evaluators(
    spec: JobSpec,
    held_out: HeldOutRows,
    sampler: RolloutEngine,
    tokenizer: ChatTokenizer,
    pool: GraderPool | None,
    pairs: HeldOutPairs | None,
    ranks: Ranks,
) -> HeldOut:
    """Returns the evaluators of the held-out rows, if there are any."""

    def evaluator(prompts: Sequence[Prompt], pairs: HeldOutPairs | None) -> Evaluator:
        settings = spec.settings
        return Evaluator(
            prompts,
            settings.evaluation,
            settings.sampling,
            sampler,
            tokenizer,
            pool,
            seed=spec.seed,
            token_budget=TOKEN_BUDGET,
            pairs=pairs,
            ranks=ranks,
        )

    if not held_out.reporting:
        return HeldOut()
    own = replace(pairs, file=TEST) if pairs is not None and held_out.is_test_file else pairs
    reporting = evaluator(held_out.reporting, own)
    return HeldOut(evaluator(held_out.selection, pairs) if held_out.selection else reporting, reporting)


def _load_data(
    trainer_spec: TrainerSpec, tokenizer: ChatTokenizer, report: Reporter
) -> tuple[list[Prompt], list[Prompt], list[Prompt] | None, dict[str, Any]]:
    """Returns the usable rows of the training, validation and test file, and the used and dropped rows of each.

    The last list is None without a test file. Raises `JobFailure` if a file has no usable row.
    """
    spec, context = trainer_spec.spec, trainer_spec.context_length
    rules, known = held_out_rules(spec, context), trainer_spec.rows
    rows: dict[str, Any] = {}

    def load(path: str | None, rules: RowRules, param: str, name: str) -> list[Prompt]:
        if path is None:
            return []
        seen = before_grading(known.get(name))
        prompts, rows[name] = _usable(path, tokenizer, rules, param, spec, report, seen)
        return prompts

    prompts = load(trainer_spec.training_path, rules_of(spec, context), "training_file", "rows")
    validation = load(trainer_spec.validation_path, rules, "validation_file", "held_out_rows")
    test = load(trainer_spec.test_path, rules, "test_file", "test_rows")
    return prompts, validation, test if trainer_spec.test_path else None, rows


def _usable(
    path: str,
    tokenizer: ChatTokenizer,
    rules: RowRules,
    param: str,
    spec: JobSpec,
    report: Reporter,
    known: dict[str, Any] | None,
) -> tuple[list[Prompt], dict[str, Any]]:
    """Returns the usable rows of a file with the numbers of used and dropped rows.

    Reports what is not used, unless the numbers are `known`: then the job has reported it already.
    """
    warnings: list[str] = []
    dropped: Counter[Drop] = Counter()
    prompts = load_prompts(Path(path), tokenizer, rules, warnings.append, param=param, dropped=dropped)
    use = {"used": len(prompts), "dropped": {str(reason): count for reason, count in dropped.items()}}
    summary = loss_summary(param.replace("_", " "), len(prompts), dropped, warnings)
    if (warnings or dropped) and use != known:
        data = {"used": len(prompts), **{f"dropped_{reason}": count for reason, count in dropped.items()}}
        report(Message(level="warn", message=summary, data=data))
    if not prompts:
        raise JobFailure(
            TrainerExit.bad_data,
            "no_usable_rows",
            f"Method '{spec.method}' can use no row of the {param.replace('_', ' ')}. {summary}",
            param,
        )
    return prompts, use
