"""Held-out evaluation: rows that are never trained on, the same prompts and draws at every step."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

import torch

from app.core.chat.tokenizer import ChatTokenizer
from app.core.graders.run import Grade, GraderPool, Sample
from app.core.spec.job import Evaluation, Sampling
from app.core.spec.reports import Evaluated
from worker.training.batching import pack
from worker.training.interfaces import RolloutEngine
from worker.training.lm_head import token_logprobs
from worker.training.rollouts.sampler import generator
from worker.training.types import Completion, Prompt

SAMPLES_SHOWN: Final = 8
BASE_SAMPLES: Final = 16
"""Answers of the base model that the forward KL is estimated on, one a prompt."""
_PASS_STREAM: Final = 4
_BASE_STREAM: Final = 5


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of `k` answers passes, from `passed` of `samples` >= k (Chen et al.

    2021, arXiv 2107.03374): 1 - C(n - c, k) / C(n, k).
    """
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


@dataclass
class _Scored:
    """A response, and what the policy makes of each of its tokens once it has been scored."""

    ids: tuple[int, ...]
    temperature: float
    logprobs: Sequence[float] = ()
    entropies: Sequence[float] = ()


_Rows = Sequence[tuple[tuple[int, ...], Sequence[_Scored]]]
"""Prompts with their responses."""


class Evaluator:
    """Evaluates the policy as it is.

    `eval/loss` is the mean negative log-likelihood per token of the held-out demonstrations. With a grader,
    `eval/reward` is the mean over graded greedy answers, `eval/accuracy` the share of all that pass (with full reward,
    or the grader's `pass_threshold`); an answer that could not be graded counts as not passed and in
    `eval/grader_errors`. `eval/entropy` is the policy's, over its
    greedy answers. `eval/forward_kl` estimates KL(base || policy) per token on answers that the base model wrote: how
    much of what it could say is being forgotten.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        wanted: Evaluation,
        sampling: Sampling,
        sampler: RolloutEngine,
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
        self._base: tuple[list[Completion], float] | None = None

    def evaluate(self, step: int) -> Evaluated:
        """All values and a few answers to look at; `best` is left for the caller to decide."""
        of_base, base_logprob = self._base_answers()
        completions = [drawn[0] for drawn in self._sample(self.prompts, 1, None)] if self.pool else []
        experts = [
            None if one.demonstration is None else _Scored(self.tokenizer.response_ids(one.demonstration), 1.0)
            for one in self.prompts
        ]
        answers = [_Scored(one.ids, self.sampling.temperature) for one in completions]
        base = [_Scored(one.ids, self.sampling.temperature) for one in of_base]
        # All that is said about a row is scored in one pass over its prompt.
        self._score([[one for one in row if one] for row in zip_longest(experts, answers, base)])
        values = {
            "eval/loss": _mean_nll([one for one in experts if one]),
            "eval/forward_kl": base_logprob - _mean_logprob(base),
        }
        if self.pool is None:
            return Evaluated(step=step, values=values)
        grades = self._grade(self.pool, list(zip(self.prompts, completions, strict=True)))
        rewards = [grade.reward for grade in grades]
        graded = [reward for reward in rewards if reward is not None]
        values |= {
            "eval/reward": statistics.fmean(graded) if graded else None,
            "eval/accuracy": sum(grade.passed for grade in grades) / len(self.prompts),
            "eval/grader_errors": float(len(rewards) - len(graded)),
            "eval/mean_length": statistics.fmean(len(one.ids) for one in completions),
            "eval/clipped_ratio": statistics.fmean(0.0 if one.finished else 1.0 for one in completions),
            "eval/entropy": statistics.fmean(entropy for one in answers for entropy in one.entropies),
            **self._pass_values(self.pool),
        }
        shown = list(zip(self.prompts, completions, rewards, strict=True))[:SAMPLES_SHOWN]
        return Evaluated(step=step, values=values, samples=tuple(self._shown(*one) for one in shown))

    def _sample(self, prompts: Sequence[Prompt], count: int, random: torch.Generator | None) -> list[list[Completion]]:
        return self.sampler.sample([prompt.ids for prompt in prompts], count, self.sampling, random)

    def _grade(self, pool: GraderPool, pairs: Sequence[tuple[Prompt, Completion]]) -> list[Grade]:
        texts = [
            (Sample(output_text=self.tokenizer.text(one.ids), finished=one.finished), prompt.item)
            for prompt, one in pairs
        ]
        return list(pool.grade_many(texts))

    def _pass_values(self, pool: GraderPool) -> dict[str, float | None]:
        count = self.wanted.pass_samples
        if count == 0:
            return {}
        drawn = self._sample(self.prompts, count, generator(self.seed, _PASS_STREAM))
        flat = [(prompt, one) for prompt, several in zip(self.prompts, drawn, strict=True) for one in several]
        passes = [grade.passed for grade in self._grade(pool, flat)]
        passed = [sum(passes[start : start + count]) for start in range(0, len(passes), count)]
        ks = sorted({1 << power for power in range(count.bit_length())} | {count})
        return {f"eval/pass@{k}": statistics.fmean(pass_at_k(count, one, k) for one in passed) for k in ks}

    def _base_answers(self) -> tuple[list[Completion], float]:
        """The base model's answers to the first prompts and the log p it gives them, a token."""
        if self._base is None:
            prompts = self.prompts[:BASE_SAMPLES]
            # Drawn again when a run resumes: the draws depend on the seed alone, and the base model never changes.
            with self.policy.base_only():
                drawn = [one[0] for one in self._sample(prompts, 1, generator(self.seed, _BASE_STREAM))]
                scored = [_Scored(one.ids, self.sampling.temperature) for one in drawn]
                self._score([[one] for one in scored])
            self._base = drawn, _mean_logprob(scored)
        return self._base

    @torch.no_grad()
    def _score(self, responses: Sequence[Sequence[_Scored]]) -> None:
        """Fills in log p and entropy of each token of these responses to the first, second, ... prompt."""
        rows: _Rows = [
            (prompt.ids, several) for prompt, several in zip(self.prompts, responses, strict=False) if several
        ]
        while rows:
            part, rows = self._within_budget(rows)
            packed = pack([(prompt, [one.ids for one in several]) for prompt, several in part], self.policy.device)
            scored = [one for _, several in part for one in several]
            places = torch.arange(len(packed.tokens_N), device=self.policy.device).split(
                [len(one.ids) for one in scored]
            )
            states_N_H = self.policy.predicting_states(packed)
            for temperature in {one.temperature for one in scored}:
                mine = [i for i, one in enumerate(scored) if one.temperature == temperature]
                index = torch.cat([places[i] for i in mine])
                scores = token_logprobs(states_N_H[index], self.policy.head, packed.tokens_N[index], temperature)
                sizes = [len(places[i]) for i in mine]
                for i, logprobs, entropies in zip(mine, *(score.split(sizes) for score in scores), strict=True):
                    scored[i].logprobs, scored[i].entropies = logprobs.tolist(), entropies.tolist()

    def _within_budget(self, rows: _Rows) -> tuple[_Rows, _Rows]:
        """As many of the rows as fit into a pass, at least one, and the others."""
        tokens = 0
        for count, (prompt, several) in enumerate(rows):
            tokens += len(prompt) + sum(len(one.ids) for one in several)
            if count and tokens > self.token_budget:
                return rows[:count], rows[count:]
        return rows, []

    def _shown(self, prompt: Prompt, completion: Completion, reward: float | None) -> dict[str, Any]:
        return {
            "prompt": prompt.text,
            "response": self.tokenizer.text(completion.ids),
            "reward": reward,
            "finished": completion.finished,
            "reference": prompt.item.get("reference_answer"),
        }


def _mean_logprob(scored: Sequence[_Scored]) -> float:
    return statistics.fmean(logprob for one in scored for logprob in one.logprobs)


def _mean_nll(scored: Sequence[_Scored]) -> float | None:
    return -_mean_logprob(scored) if scored else None
