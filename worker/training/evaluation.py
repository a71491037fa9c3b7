"""Held-out evaluation: greedy answers to rows that are never trained on, graded by the job's own grader."""

import statistics
from collections.abc import Sequence
from typing import Any, Final

from app.core.graders.run import GraderPool, Sample
from app.core.spec.job import Sampling
from app.core.spec.reports import Evaluated
from worker.training.rollout import Sampler
from worker.training.tokenize import ChatTokenizer
from worker.training.types import Completion, Prompt

SAMPLES_SHOWN: Final = 8
PASSING_REWARD: Final = 1.0 - 1e-9


def evaluate(
    step: int,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    sampler: Sampler,
    tokenizer: ChatTokenizer,
    pool: GraderPool,
) -> Evaluated:
    """Greedy completion of every prompt, graded.

    `eval/reward` is the mean over graded answers, `eval/accuracy` the share of all answers with full reward; an answer
    that could not be graded counts as not passed and in `eval/grader_errors`. Prompts and decoding are the same at
    every step.
    """
    completions = [drawn[0] for drawn in sampler.sample([p.ids for p in prompts], 1, sampling, None)]
    texts = [tokenizer.text(completion.ids) for completion in completions]
    grades = pool.grade_many([(Sample(output_text=t), p.item) for t, p in zip(texts, prompts, strict=True)])
    rewards = [grade.reward for grade in grades]
    graded = [reward for reward in rewards if reward is not None]
    values: dict[str, float | None] = {
        "eval/reward": statistics.fmean(graded) if graded else None,
        "eval/accuracy": sum(reward >= PASSING_REWARD for reward in graded) / len(prompts),
        "eval/grader_errors": float(len(rewards) - len(graded)),
        "eval/mean_length": statistics.fmean(len(c.ids) for c in completions),
        "eval/clipped_ratio": statistics.fmean(0.0 if c.finished else 1.0 for c in completions),
    }
    shown = zip(prompts, completions, texts, rewards, strict=True)
    return Evaluated(step=step, values=values, samples=tuple(_sample(*one) for one in list(shown)[:SAMPLES_SHOWN]))


def _sample(prompt: Prompt, completion: Completion, text: str, reward: float | None) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "response": text,
        "reward": reward,
        "finished": completion.finished,
        "reference": prompt.item.get("reference_answer"),
    }
