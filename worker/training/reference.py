"""The reference of a dpo job: log p of every answer under the policy that training starts from.

That is the base model for a new adapter, and the adapter itself for a warm start. Each answer is scored once, before
the first step; checkpoints store the numbers, so a resumed run compares with exactly the same ones.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from worker.training.batching import micro_batches
from worker.training.distributed import Ranks
from worker.training.interfaces import StopFlag
from worker.training.model import Policy
from worker.training.out_of_memory import TokenBudget
from worker.training.preference import Logprobs, pair_group, response_sums
from worker.training.types import Prompt

CHUNK: Final = 256
"""Pairs scored between two checks for a stop request; an out-of-memory error repeats at most this number."""
TRAINING: Final = "training"
HELD_OUT: Final = "held_out"
TEST: Final = "test"


class Reference:
    """Log p of both answers of each pair, by file and line."""

    def __init__(
        self, training: Sequence[Prompt], held_out: Sequence[Prompt], test: Sequence[Prompt] | None = None
    ) -> None:
        """`held_out` are rows of the validation file, `test` those of the test file, if there is one."""
        files = {TRAINING: training, HELD_OUT: held_out} | ({} if test is None else {TEST: test})
        self._prompts: Mapping[str, Sequence[Prompt]] = {
            file: [prompt for prompt in prompts if prompt.pair is not None] for file, prompts in files.items()
        }
        self._logprobs: dict[str, dict[int, Logprobs]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether all pairs are scored."""
        return self._logprobs.keys() == self._prompts.keys()

    @property
    def pairs(self) -> int:
        """The number of pairs of all files."""
        return sum(map(len, self._prompts.values()))

    def of(self, file: str, prompt: Prompt) -> Logprobs:
        """Returns the numbers of a row of `TRAINING`, `HELD_OUT` or `TEST`."""
        return self._logprobs[file][prompt.line]

    def compute(self, policy: Policy, budget: TokenBudget, ranks: Ranks, stop: StopFlag) -> bool:
        """Scores all pairs with `policy`, which must be the starting one; each rank scores its share.

        Returns False if a stop request interrupted it; nothing is kept then.
        """
        scored: dict[str, dict[int, Logprobs]] = {file: {} for file in self._prompts}
        rows = [(file, prompt) for file, prompts in self._prompts.items() for prompt in prompts]
        rows.sort(key=lambda row: _longest(row[1]))  # pairs of similar length pack well
        for start in range(0, len(rows), CHUNK):
            # All ranks must leave at the same chunk, or the others would wait for it.
            if start and ranks.sum(stop.is_set()):
                return False
            chunk = rows[start : start + CHUNK]
            mine = [prompt for _, prompt in ranks.share(chunk)]
            with policy.lockstep():
                own = score_within_memory(policy, mine, budget)
            for rank, found in enumerate(ranks.gather(own)):
                for (file, prompt), logprobs in zip(chunk[rank :: ranks.size], found, strict=True):
                    scored[file][prompt.line] = logprobs
        self._logprobs = scored
        return True

    def state(self) -> dict[str, Tensor]:
        """Returns for each file its lines [R] and the log-probabilities [R, 2], for a checkpoint."""
        tensors: dict[str, Tensor] = {}
        for file, by_line in self._logprobs.items():
            tensors[f"{file}.lines"] = torch.tensor(list(by_line), dtype=torch.int64)
            tensors[f"{file}.logprobs"] = torch.tensor(list(by_line.values()), dtype=torch.float64).view(-1, 2)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned."""
        self._logprobs = {
            file: {
                line: Logprobs(*pair)
                for line, pair in zip(
                    tensors[f"{file}.lines"].tolist(), tensors[f"{file}.logprobs"].tolist(), strict=True
                )
            }
            for file in self._prompts
        }


def _longest(prompt: Prompt) -> int:
    return max(len(turn.context) + len(turn.ids) for turn in prompt.pair or ())


def score_within_memory(policy: Policy, prompts: Sequence[Prompt], budget: TokenBudget) -> list[Logprobs]:
    """Returns log p of the pair of each row; smaller micro-batches follow an out-of-memory error."""
    return budget.run(
        lambda tokens: score(policy, prompts, tokens),
        shortest=min(map(_longest, prompts), default=0),
        reset=lambda: None,
    )


@torch.no_grad()
def score(policy: Policy, prompts: Sequence[Prompt], token_budget: int) -> list[Logprobs]:
    """Returns log p of the pair of each row, at temperature 1 and without dropout."""
    place = {id(prompt): index for index, prompt in enumerate(prompts)}
    found = [Logprobs(0.0, 0.0)] * len(prompts)
    pairs = [(prompt, pair_group(prompt).members) for prompt in prompts]
    for batch in micro_batches(pairs, token_budget, policy.device, atomic=True, shared=policy.is_fast):
        logprobs_N, _ = policy.logprobs(batch.packed, 1.0)
        sums_P_2 = response_sums(batch, logprobs_N).view(-1, 2)
        for (prompt, _), pair in zip(batch.sequences[::2], sums_P_2.tolist(), strict=True):
            found[place[id(prompt)]] = Logprobs(*pair)
    return found
