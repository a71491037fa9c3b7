"""Held-out evaluation on rows that are never trained on, with the same prompts and random numbers at every step."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch

from app.core.chat.tokenizer import ChatTokenizer
from app.core.graders.run import Grade, GraderPool, Sample
from app.core.spec.job import Evaluation, Sampling
from app.core.spec.reports import Evaluated
from app.core.spec.row_results import RowResults, RowScores
from worker.training.batching import pack
from worker.training.distributed import Ranks, in_order
from worker.training.held_out_pairs import ByRow, HeldOutPairs, metrics_by_row
from worker.training.interfaces import RolloutEngine
from worker.training.prefix_tree import PrefixTree
from worker.training.rewards import grade_answers
from worker.training.rollouts.sampler import generator
from worker.training.types import Completion, Prompt

SAMPLES_SHOWN: Final = 8
STARTING_SAMPLES: Final = 16
"""Number of the starting policy's answers that the forward KL is estimated on, one per prompt."""
_PASS_STREAM: Final = 4
_STARTING_STREAM: Final = 5


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Returns an unbiased estimate of the chance that at least one of `k` answers passes, from `passed` of `samples` >=
    k.

    1 - C(n - c, k) / C(n, k) for c passed of n samples (Chen et al. 2021, arXiv 2107.03374).
    """
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


@dataclass
class _ScoredResponse:
    """A response with the log p and entropy of each of its tokens, in nats, once it has been scored."""

    context: tuple[int, ...]
    ids: tuple[int, ...]
    temperature: float
    logprobs: Sequence[float] = ()
    entropies: Sequence[float] = ()


_Rows = Sequence[Sequence[_ScoredResponse]]
"""The responses of each row, which share prefixes."""


@dataclass(frozen=True)
class _Drawn:
    """The answers of one rank's rows."""

    starting: Sequence[Completion]
    """The starting policy's, of the first rows only."""
    greedy: Sequence[Completion] = ()
    """Like `sampled`, empty without a grader."""
    sampled: Sequence[Sequence[Completion]] = ()
    """`pass_samples` for each row."""


@dataclass(frozen=True)
class _Share:
    """What one rank computes: one item per row of its share, in order; of starting answers, of the first rows only."""

    demonstrations: Sequence[list[_ScoredResponse]]
    starting: Sequence[_ScoredResponse]
    """The starting policy's answers, scored by the current policy."""
    starting_before: Sequence[_ScoredResponse]
    """The same, scored by the starting policy."""
    answers: Sequence[_ScoredResponse] = ()
    """Greedy answers; like the rest, empty without a grader."""
    completions: Sequence[Completion] = ()
    grades: Sequence[Grade] = ()
    passed: Sequence[int] = ()
    """How many of the sampled answers pass, if there are any."""
    pairs: Sequence[Mapping[str, float]] = ()
    """Of dpo jobs: the metrics of each pair."""

    @classmethod
    def joined(cls, shares: Sequence["_Share"]) -> "_Share":
        """Returns the items of all ranks in the order of the rows."""
        return cls(*(in_order([getattr(share, part.name) for share in shares]) for part in fields(cls)))


class Evaluator:
    """Evaluates the current policy on one set of held-out rows.

    eval/loss        mean negative log-likelihood per token of the held-out demonstrations; of every trained turn for
                     jobs that train on every turn
    eval/forward_kl  KL(start || policy) per token along answers of the policy that training started from, the base
                     model or an adapter: how much the policy forgets. A rough estimate: one sampled answer to each of
                     the first 16 rows

    Of dpo jobs, over the held-out pairs, `eval/loss` is the DPO loss; see `held_out_pairs` for the rest.

    With a grader, over one greedy answer per prompt:

    eval/reward         mean over the graded answers
    eval/accuracy       share of all answers that pass (full reward, or the grader's `pass_threshold`); an answer whose
                        grade failed does not pass
    eval/grader_errors  number of answers whose grade failed
    eval/entropy        mean entropy per token of the policy's next-token distribution, at the sampling temperature,
                        along its own greedy answers: lower than along sampled answers, which `entropy` is measured on
    eval/pass@k         chance that one of k sampled answers passes, for powers of two up to `pass_samples`
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
        pairs: HeldOutPairs | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.prompts = prompts
        self.ranks = ranks or Ranks()
        self.wanted = wanted
        self.sampling = sampling
        self.sampler = sampler
        self.policy = sampler.policy
        self.tokenizer = tokenizer
        self.pool = pool
        self.seed = seed
        self.token_budget = token_budget
        self.pairs = pairs
        self._starting_completions: list[Completion] | None = None
        self._starting_before: list[_ScoredResponse] | None = None

    def evaluate(self, step: int) -> Evaluated:
        """Returns all values, by row too, and a few sample answers. The caller decides `best`.

        The ranks share the rows, and each returns the values of all rows. Raises `JobFailure` while the grader's server
        is unavailable, and `PeerLost`.
        """
        prompts = self.ranks.share(self.prompts)
        with self.sampler.awake(), self.policy.lockstep():
            drawn = self._draw(prompts)
        with self.policy.lockstep():
            own = self._evaluate(prompts, drawn)
        found = _Share.joined(self.ranks.gather(own))
        values = {
            "eval/loss": _mean_nll([response for row in found.demonstrations for response in row]),
            "eval/forward_kl": _mean_logprob(found.starting_before) - _mean_logprob(found.starting),
        }
        by_row = {"eval/loss": _nll_by_row(found.demonstrations)}
        if found.pairs:
            of_pairs = metrics_by_row(found.pairs)
            values |= _means(of_pairs)
            by_row |= _by_row(of_pairs)
        samples: list[dict[str, Any]] = []
        if self.pool is not None:
            rewards = [grade.reward for grade in found.grades]
            graded = _answer_scores(found.grades, found.completions) | self._pass_scores(found.passed)
            values |= _means(graded) | {
                "eval/grader_errors": float(rewards.count(None)),
                "eval/entropy": statistics.fmean(entropy for answer in found.answers for entropy in answer.entropies),
            }
            by_row |= _by_row(graded)
            shown = list(zip(self.prompts, found.completions, rewards, strict=True))[:SAMPLES_SHOWN]
            samples = [self._sample_record(*sample) for sample in shown]
        lines = tuple(prompt.line for prompt in self.prompts)
        return Evaluated(step=step, values=values, samples=tuple(samples), rows=RowResults(lines=lines, metrics=by_row))

    def _draw(self, prompts: Sequence[Prompt]) -> _Drawn:
        """Samples the answers to this rank's rows, all that an evaluation needs."""
        if self._starting_completions is None:
            # A resumed run samples them again and gets the same: they depend on the seed and the starting policy only.
            with self.policy.starting():
                rows = self._sample(self._starting_prompts, 1, self._generator(_STARTING_STREAM))
            self._starting_completions = [row[0] for row in rows]
        if self.pool is None:
            return _Drawn(self._starting_completions)
        greedy = [row[0] for row in self._sample(prompts, 1, None)]
        count = self.wanted.pass_samples
        sampled = self._sample(prompts, count, self._generator(_PASS_STREAM)) if count else []
        return _Drawn(self._starting_completions, greedy, sampled)

    def _evaluate(self, prompts: Sequence[Prompt], drawn: _Drawn) -> _Share:
        """Scores and grades the answers to this rank's rows."""
        starting_before = self._score_start(drawn.starting)
        demonstrations = [[_ScoredResponse(turn.context, turn.ids, 1.0) for turn in prompt.turns] for prompt in prompts]
        answers = self._responses(prompts, drawn.greedy)
        starting = self._responses(prompts, drawn.starting)
        # Score all responses of a row in one pass, so that they share prefixes.
        rows = [list(turns) for turns in demonstrations]
        for responses in (answers, starting):
            for row, response in zip(rows, responses, strict=False):
                row.append(response)
        self._score(rows)
        share = _Share(demonstrations, starting, starting_before)
        if self.pairs is not None:
            share = replace(share, pairs=self.pairs.scores(self.policy, prompts))
        if self.pool is None:
            return share
        grades = self._grade(self.pool, list(zip(prompts, drawn.greedy, strict=True)))
        passed = self._passed(self.pool, prompts, drawn.sampled)
        return replace(share, answers=answers, completions=drawn.greedy, grades=grades, passed=passed)

    def _sample(self, prompts: Sequence[Prompt], count: int, random: torch.Generator | None) -> list[list[Completion]]:
        return self.sampler.sample([prompt.ids for prompt in prompts], count, self.sampling, random)

    def _generator(self, stream: int) -> torch.Generator:
        """Returns random numbers that are the same at every step and differ between ranks."""
        rank = self.ranks.rank
        return generator(self.seed, stream, rank) if rank else generator(self.seed, stream)

    def _grade(self, pool: GraderPool, pairs: Sequence[tuple[Prompt, Completion]]) -> list[Grade]:
        answers = [
            (prompt, Sample.of(self.tokenizer.parse(found.ids, prompt.tools), finished=found.finished))
            for prompt, found in pairs
        ]
        return grade_answers(pool, self.prompts, answers, "held-out row")

    def _passed(
        self, pool: GraderPool, prompts: Sequence[Prompt], sampled: Sequence[Sequence[Completion]]
    ) -> list[int]:
        """Returns how many of the sampled answers to each prompt pass, if there are any."""
        count = self.wanted.pass_samples
        if count == 0:
            return []
        flat = [(prompt, completion) for prompt, row in zip(prompts, sampled, strict=True) for completion in row]
        passes = [grade.passed for grade in self._grade(pool, flat)]
        return [sum(passes[start : start + count]) for start in range(0, len(passes), count)]

    def _pass_scores(self, passed: Sequence[int]) -> ByRow:
        if not passed:
            return {}
        count = self.wanted.pass_samples
        ks = sorted({1 << power for power in range(count.bit_length())} | {count})
        return {f"eval/pass@{k}": [pass_at_k(count, number, k) for number in passed] for k in ks}

    @property
    def _starting_prompts(self) -> list[Prompt]:
        """This rank's share of the first prompts."""
        return self.ranks.share(self.prompts[:STARTING_SAMPLES])

    def _score_start(self, completions: Sequence[Completion]) -> list[_ScoredResponse]:
        """Returns the starting policy's answers to the first prompts, scored by it."""
        if self._starting_before is None:
            with self.policy.starting():
                scored = self._responses(self._starting_prompts, completions)
                self._score([[response] for response in scored])
            self._starting_before = scored
        return self._starting_before

    def _responses(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[_ScoredResponse]:
        """Returns the completions of the first of these prompts, to be scored."""
        return [
            _ScoredResponse(prompt.ids, completion.ids, self.sampling.temperature)
            for prompt, completion in zip(prompts, completions, strict=False)
        ]

    @torch.no_grad()
    def _score(self, rows: _Rows) -> None:
        """Sets log p and entropy of each token of all responses."""
        rows = [row for row in rows if row]
        while rows:
            part, rows = self._within_budget(rows)
            groups = [[(response.context, response.ids) for response in row] for row in part]
            packed = pack(groups, self.policy.device)
            scored = [response for row in part for response in row]
            logprobs_N, entropies_N = self.policy.logprobs(packed, [response.temperature for response in scored])
            sizes = [len(response.ids) for response in scored]
            parts = zip(scored, logprobs_N.split(sizes), entropies_N.split(sizes), strict=True)
            for response, logprobs, entropies in parts:
                response.logprobs, response.entropies = logprobs.tolist(), entropies.tolist()

    def _within_budget(self, rows: _Rows) -> tuple[_Rows, _Rows]:
        """Splits off as many rows as fit into one pass, at least one; returns them and the rest."""
        tokens = 0
        for count, row in enumerate(rows):
            tree = PrefixTree()
            for response in row:
                tree.add(response.context, response.ids)
            tokens += tree.tokens
            if count and tokens > self.token_budget:
                return rows[:count], rows[count:]
        return rows, []

    def _sample_record(self, prompt: Prompt, completion: Completion, reward: float | None) -> dict[str, Any]:
        return {
            "line": prompt.line,
            "prompt": prompt.text,
            "response": self.tokenizer.text(completion.ids),
            "reward": reward,
            "finished": completion.finished,
            "reference": prompt.item.get("reference_answer"),
        }


def _mean_logprob(scored: Sequence[_ScoredResponse]) -> float:
    return statistics.fmean(logprob for response in scored for logprob in response.logprobs)


def _mean_nll(scored: Sequence[_ScoredResponse]) -> float | None:
    return -_mean_logprob(scored) if scored else None


def _nll_by_row(demonstrations: _Rows) -> RowScores:
    """Returns the loss of each row per token, weighted by its tokens; None for a row without a demonstration."""
    return RowScores(
        values=tuple(_mean_nll(row) for row in demonstrations),
        weights=tuple(float(sum(len(turn.ids) for turn in row)) for row in demonstrations),
    )


def _answer_scores(grades: Sequence[Grade], completions: Sequence[Completion]) -> ByRow:
    """Returns the metrics of the greedy answers by row."""
    return {
        "eval/reward": [grade.reward for grade in grades],
        "eval/accuracy": [float(grade.passed) for grade in grades],
        "eval/mean_length": [float(len(completion.ids)) for completion in completions],
        "eval/clipped_ratio": [0.0 if completion.finished else 1.0 for completion in completions],
    }


def _by_row(scores: ByRow) -> dict[str, RowScores]:
    return {name: RowScores(values=tuple(values)) for name, values in scores.items()}


def _means(by_row: ByRow) -> dict[str, float | None]:
    """Returns the mean of each metric over the rows that have a value; None without any."""
    known = {name: [score for score in scores if score is not None] for name, scores in by_row.items()}
    return {name: statistics.fmean(scores) if scores else None for name, scores in known.items()}
