"""Held-out evaluation: rows that are never trained on, the same prompts and draws at every step."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch

from app.core.graders.run import Grade, GraderPool, Sample
from app.core.spec.job import Evaluation, Sampling
from app.core.spec.reports import Evaluated
from worker.training.batching import pack
from worker.training.rollout import Sampler, generator
from worker.training.tokenize import ChatTokenizer
from worker.training.types import Completion, Prompt

SAMPLES_SHOWN: Final = 8
PASSING_REWARD: Final = 1.0 - 1e-9
BASE_SAMPLES: Final = 16
"""Answers of the base model that the forward KL is estimated on, one a prompt."""
_PASS_STREAM: Final = 4
_BASE_STREAM: Final = 5


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of `k` answers passes, from `passed` of `samples` >= k (Chen et al.

    2021, arXiv 2107.03374): 1 - C(n - c, k) / C(n, k).
    """
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


class Evaluator:
    """Evaluates the policy as it is.

    `eval/loss` is the mean negative log-likelihood per token of the held-out demonstrations. With a grader,
    `eval/reward` is the mean over graded greedy answers, `eval/accuracy` the share of all with full reward; an answer
    that could not be graded counts as not passed and in `eval/grader_errors`. `eval/entropy` is the policy's, over its
    greedy answers. `eval/forward_kl` estimates KL(base || policy) per token on answers that the base model wrote: how
    much of what it could say is being forgotten.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        wanted: Evaluation,
        sampling: Sampling,
        sampler: Sampler,
        tokenizer: ChatTokenizer,
        pool: GraderPool | None,
        *,
        seed: int,
        token_budget: int,
    ) -> None:
        self.prompts = prompts
        self.wanted = wanted
        self.sampling = sampling
        self.sampler = sampler
        self.policy = sampler.policy
        self.tokenizer = tokenizer
        self.pool = pool
        self.seed = seed
        self.token_budget = token_budget
        self._base: tuple[list[Completion], list[float]] | None = None

    def evaluate(self, step: int) -> Evaluated:
        """All values and a few answers to look at; `best` is left for the caller to decide."""
        values = {"eval/loss": self._loss(), "eval/forward_kl": self._forward_kl()}
        if self.pool is None:
            return Evaluated(step=step, values=values)
        completions = [drawn[0] for drawn in self._sample(self.prompts, 1, None)]
        grades = self._grade(self.pool, list(zip(self.prompts, completions, strict=True)))
        rewards = [grade.reward for grade in grades]
        graded = [reward for reward in rewards if reward is not None]
        values |= {
            "eval/reward": statistics.fmean(graded) if graded else None,
            "eval/accuracy": sum(map(_passes, grades)) / len(self.prompts),
            "eval/grader_errors": float(len(rewards) - len(graded)),
            "eval/mean_length": statistics.fmean(len(one.ids) for one in completions),
            "eval/clipped_ratio": statistics.fmean(0.0 if one.finished else 1.0 for one in completions),
            "eval/entropy": self._entropy(completions),
            **self._pass_values(self.pool),
        }
        shown = list(zip(self.prompts, completions, rewards, strict=True))[:SAMPLES_SHOWN]
        return Evaluated(step=step, values=values, samples=tuple(self._shown(*one) for one in shown))

    def _sample(self, prompts: Sequence[Prompt], count: int, random: torch.Generator | None) -> list[list[Completion]]:
        return self.sampler.sample([prompt.ids for prompt in prompts], count, self.sampling, random)

    def _grade(self, pool: GraderPool, answered: Sequence[tuple[Prompt, Completion]]) -> list[Grade]:
        texts = [(Sample(output_text=self.tokenizer.text(one.ids)), prompt.item) for prompt, one in answered]
        return list(pool.grade_many(texts))

    def _pass_values(self, pool: GraderPool) -> dict[str, float | None]:
        count = self.wanted.pass_samples
        if count == 0:
            return {}
        drawn = self._sample(self.prompts, count, generator(self.seed, _PASS_STREAM))
        flat = [(prompt, one) for prompt, several in zip(self.prompts, drawn, strict=True) for one in several]
        passes = list(map(_passes, self._grade(pool, flat)))
        passed = [sum(passes[start : start + count]) for start in range(0, len(passes), count)]
        ks = sorted({1 << power for power in range(count.bit_length())} | {count})
        return {f"eval/pass@{k}": statistics.fmean(pass_at_k(count, one, k) for one in passed) for k in ks}

    def _loss(self) -> float | None:
        shown = [(p, self.tokenizer.response_ids(p.expert)) for p in self.prompts if p.expert is not None]
        if not shown:
            return None
        scores = self._score([prompt for prompt, _ in shown], [ids for _, ids in shown], temperature=1.0)
        return -statistics.fmean(logprob for logprobs, _ in scores for logprob in logprobs)

    def _entropy(self, completions: Sequence[Completion]) -> float:
        scores = self._score(self.prompts, [one.ids for one in completions], self.sampling.temperature)
        return statistics.fmean(entropy for _, entropies in scores for entropy in entropies)

    def _forward_kl(self) -> float:
        prompts = self.prompts[:BASE_SAMPLES]
        if self._base is None:
            # Drawn again when a run resumes: the draws depend on the seed alone, and the base model never changes.
            with self.policy.base_only():
                drawn = [one[0] for one in self._sample(prompts, 1, generator(self.seed, _BASE_STREAM))]
                self._base = drawn, self._log_likelihoods(prompts, drawn)
        completions, of_base = self._base
        of_policy = self._log_likelihoods(prompts, completions)
        tokens = sum(len(one.ids) for one in completions)
        return (sum(of_base) - sum(of_policy)) / tokens

    def _log_likelihoods(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        scores = self._score(prompts, [one.ids for one in completions], self.sampling.temperature)
        return [sum(logprobs) for logprobs, _ in scores]

    @torch.no_grad()
    def _score(
        self, prompts: Sequence[Prompt], responses: Sequence[tuple[int, ...]], temperature: float
    ) -> Iterator[tuple[list[float], list[float]]]:
        """Log p and entropy of each token of each response, in order."""
        pairs = [(prompt.ids, [ids]) for prompt, ids in zip(prompts, responses, strict=True)]
        longest = max(len(prompt) + len(answers[0]) for prompt, answers in pairs)
        at_once = max(1, self.token_budget // longest)
        for start in range(0, len(pairs), at_once):
            part = pairs[start : start + at_once]
            logprobs_N, entropies_N = self.policy.logprobs(pack(part, self.policy.device), temperature)
            sizes = [len(answers[0]) for _, answers in part]
            for logprobs, entropies in zip(logprobs_N.split(sizes), entropies_N.split(sizes), strict=True):
                yield logprobs.tolist(), entropies.tolist()

    def _shown(self, prompt: Prompt, completion: Completion, reward: float | None) -> dict[str, Any]:
        return {
            "prompt": prompt.text,
            "response": self.tokenizer.text(completion.ids),
            "reward": reward,
            "finished": completion.finished,
            "reference": prompt.item.get("reference_answer"),
        }


def _passes(grade: Grade) -> bool:
    return grade.reward is not None and grade.reward >= PASSING_REWARD
