"""Puts a run together from its directory and turns its end into an exit code."""

import json
import os
from pathlib import Path
from typing import TextIO

import torch
import transformers

from app.core.graders.run import GraderPool
from app.core.spec.job import GroupMethod, JobSpec, TrainerSpec
from app.core.spec.reports import Failed, Message, Report, TrainerExit
from worker.training import checkpoints
from worker.training.batching import DataOrder
from worker.training.interfaces import Reporter, StopFlag
from worker.training.loop import Run, Stopped
from worker.training.model import load_policy, load_tokenizer
from worker.training.optimizer import Updater, new_optimizer
from worker.training.resolve import resolve
from worker.training.rollout import Sampler
from worker.training.tokenize import ChatTokenizer, load_prompts
from worker.training.types import JobFailure, Prompt

TOKEN_BUDGET = 4096
"""Packed tokens of a micro-batch."""
WARNINGS_SHOWN = 20


def run(run_dir: Path, reports: TextIO, stop: StopFlag) -> TrainerExit:
    """Runs the job of `run_dir` and returns how it ended."""

    def report(one: Report) -> None:
        reports.write(one.model_dump_json() + "\n")
        reports.flush()

    try:
        _set_up(run_dir, report, stop)
    except Stopped:
        return TrainerExit.stopped
    except JobFailure as failure:
        report(Failed(code=failure.code, message=str(failure), param=failure.param))
        return TrainerExit(failure.exit_code)
    except (MemoryError, torch.OutOfMemoryError) as error:
        advice = "Lower hyperparameters.batch_size, max_length, group.self or lora.r."
        report(Failed(code="out_of_memory", message=f"The trainer ran out of memory. {advice} ({error})"))
        return TrainerExit.out_of_memory
    return TrainerExit.succeeded


def _set_up(run_dir: Path, report: Reporter, stop: StopFlag) -> None:
    trainer = TrainerSpec.model_validate(json.loads((run_dir / "spec.json").read_text(encoding="utf-8")))
    spec = trainer.spec
    torch.set_num_threads(trainer.threads or os.cpu_count() or 1)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    transformers.utils.logging.disable_progress_bar()
    base_dir = Path(trainer.base_model_dir)
    tokenizer = ChatTokenizer(load_tokenizer(base_dir))
    prompts, held_out = _load_data(trainer, tokenizer, report)
    policy = load_policy(base_dir, spec.hyperparameters.lora, spec.seed)
    plan = resolve(
        spec,
        rows=len(prompts),
        held_out_rows=len(held_out),
        parameters=sum(value.numel() for value in policy.causal.parameters() if not value.requires_grad),
    )
    optimizer = new_optimizer(policy)
    updater = Updater(
        policy,
        optimizer,
        tau=spec.tau,
        temperature=spec.settings.sampling.temperature if isinstance(spec.settings, GroupMethod) else 1.0,
        zero_variance=spec.settings.zero_variance if isinstance(spec.settings, GroupMethod) else "count",
        kl_coefficient=spec.settings.kl_coefficient if isinstance(spec.settings, GroupMethod) else 0.0,
        token_budget=TOKEN_BUDGET,
    )
    run = Run(
        trainer=trainer,
        plan=plan,
        policy=policy,
        tokenizer=tokenizer,
        sampler=Sampler(policy, tokenizer.end_id, tokenizer.pad_id),
        updater=updater,
        order=DataOrder(prompts, plan.batch_size, plan.n_epochs, spec.seed),
        held_out=held_out[: plan.eval_samples],
        pool=None,
        run_dir=run_dir,
        report=report,
        stop=stop,
        base_name=base_dir.name,
    )
    if trainer.resume_from is not None:
        state = checkpoints.load(Path(trainer.resume_from), policy, optimizer)
        run.step = policy.version = int(state["step"])
        run.trained_tokens = int(state["trained_tokens"])
    if spec.settings.grader is None:
        run.train()
        return
    with GraderPool(spec.settings.grader) as pool:
        run.pool = pool
        run.train()


def _load_data(trainer: TrainerSpec, tokenizer: ChatTokenizer, report: Reporter) -> tuple[list[Prompt], list[Prompt]]:
    """Usable training rows and held-out rows. Raises `JobFailure` when the method has nothing to train on."""
    spec = trainer.spec
    warnings: list[str] = []
    room = spec.settings.sampling.max_tokens
    training = Path(trainer.training_path)
    prompts = load_prompts(training, tokenizer, spec.hyperparameters, room if spec.group.self_ else 1, warnings.append)
    prompts = [prompt for prompt in prompts if _has_members(prompt, spec)]
    held_out: list[Prompt] = []
    if trainer.validation_path is not None:
        held_out = load_prompts(Path(trainer.validation_path), tokenizer, spec.hyperparameters, room, warnings.append)
    for warning in warnings[:WARNINGS_SHOWN]:
        report(Message(level="warn", message=warning))
    if len(warnings) > WARNINGS_SHOWN:
        report(
            Message(level="warn", message=f"{len(warnings) - WARNINGS_SHOWN} more rows were dropped for their length")
        )
    if not prompts:
        raise JobFailure(
            TrainerExit.bad_data,
            "no_usable_rows",
            f"No row of the training file can be used by method '{spec.method}': see the job's warnings.",
            "training_file",
        )
    return prompts, held_out


def _has_members(prompt: Prompt, spec: JobSpec) -> bool:
    group = spec.group
    return bool(group.self_ or (group.expert and prompt.expert is not None) or (group.teacher and prompt.teachers))
