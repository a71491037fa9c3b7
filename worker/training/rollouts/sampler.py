"""The in-process sampler: prefills each prompt once, repeats its KV cache for all samples, decodes them as one batch.

It runs the model that is being trained, adapter included, so rollouts are never stale. Finished sequences leave the
batch, and the output head is applied to the last position only. The random numbers are a pure function of
(seed, step), so a resumed run samples the same rollouts. Policies on the plain path sample with `generation`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import numpy as np
import torch
from torch import Tensor

from app.core.spec.job import Sampling
from app.core.spec.plan import MAX_SEQUENCES
from worker.training.interfaces import CompletionCallback
from worker.training.lm_head import Head
from worker.training.model import Policy
from worker.training.rollouts import generation
from worker.training.rollouts.decoding import Decoder
from worker.training.rollouts.rows import ExactRows, PaddedRows, Rows
from worker.training.rollouts.sampling import draw, nucleus
from worker.training.types import Completion

ROWS_A_THREAD: Final = 48
"""Sequences per CPU thread. A decoding step is hundreds of small products; with fewer sequences per thread, waking the
thread costs more than it saves."""


@contextmanager
def _threads_for(rows: int) -> Iterator[None]:
    """Limits torch to the threads that a decoding step of `rows` sequences can keep busy, within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, min(threads, rows // ROWS_A_THREAD)))
    yield
    torch.set_num_threads(threads)


def generator(seed: int, *stream: int) -> torch.Generator:
    """Returns a CPU generator whose state depends on the arguments only."""
    state = np.random.SeedSequence([seed, *stream]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


class Sampler:
    """Samples completions from the current policy."""

    def __init__(
        self, policy: Policy, end_ids: Collection[int], pad_id: int, *, max_sequences: int = MAX_SEQUENCES
    ) -> None:
        """A completion is finished at any token of `end_ids`.

        A batch has at most `max_sequences` sequences, or the samples of one prompt.
        """
        self._max_sequences = max_sequences
        self.policy = policy
        self.end_ids = frozenset(end_ids)
        self.pad_id = pad_id
        self._decoder = Decoder(policy) if policy.is_fast else None

    @property
    def needs_cores(self) -> bool:
        return self.policy.device.type == "cpu"

    def awake(self) -> AbstractContextManager[None]:
        return nullcontext()

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        count: int,
        sampling: Sampling,
        random: torch.Generator | None,
        on_completion: CompletionCallback | None = None,
    ) -> list[list[Completion]]:
        """Samples `count` completions for each prompt and returns them in order. Decodes greedily without `random`."""
        per_batch = max(1, self._max_sequences // count)
        if self._decoder is None:
            return self._generate(prompts, count, sampling, random, on_completion, per_batch)
        results: list[list[Completion]] = []
        with self._decoder.head() as head:
            for start in range(0, len(prompts), per_batch):
                batch = prompts[start : start + per_batch]
                flat = self._decode(head, batch, count, sampling, random, _by_prompt(on_completion, start, count))
                results.extend(flat[i * count : (i + 1) * count] for i in range(len(batch)))
        return results

    def _generate(
        self,
        prompts: Sequence[tuple[int, ...]],
        count: int,
        sampling: Sampling,
        random: torch.Generator | None,
        on_completion: CompletionCallback | None,
        per_batch: int,
    ) -> list[list[Completion]]:
        """Samples with transformers' own `generate`, for policies on the plain path."""
        results: list[list[Completion]] = [[] for _ in prompts]
        for numbers in generation.batches(prompts, per_batch):
            flat = generation.generate(
                self.policy,
                [prompts[number] for number in numbers],
                count,
                sampling,
                lambda logits_B_V: _choose(logits_B_V, sampling, random),
                self.end_ids,
                self.pad_id,
            )
            for place, number in enumerate(numbers):
                results[number] = flat[place * count : (place + 1) * count]
                for index, completion in enumerate(results[number]):
                    if on_completion is not None:
                        on_completion(number, index, completion)
        return results

    def _decode(
        self,
        head: Head | None,
        prompts: Sequence[tuple[int, ...]],
        count: int,
        sampling: Sampling,
        random: torch.Generator | None,
        on_finished: Callable[[int, Completion], None],
    ) -> list[Completion]:
        """Returns the completions of one batch; sequence i belongs to prompt i // count."""
        is_exact = random is None and count == 1 and head is not None and self.policy.decodes_exactly
        rows: Rows = ExactRows(self.policy) if is_exact else PaddedRows(self.policy, self.pad_id)
        hidden_B_H = rows.prefill(prompts, count)
        head = head or self.policy.head
        live = list(range(len(prompts) * count))  # row of the batch -> number of its sequence
        tokens: list[list[int]] = [[] for _ in live]
        logprobs: list[list[float]] = [[] for _ in live]
        completions: dict[int, Completion] = {}
        for position in range(sampling.max_tokens):
            chosen_B, logprob_B = _choose(head.logits(hidden_B_H, torch.float32), sampling, random)
            chosen, chosen_logprobs = chosen_B.tolist(), logprob_B.tolist()
            for sequence, token, logprob in zip(live, chosen, chosen_logprobs, strict=True):
                tokens[sequence].append(token)
                logprobs[sequence].append(logprob)
                is_end = token in self.end_ids
                if is_end or position + 1 == sampling.max_tokens:
                    completions[sequence] = Completion(tuple(tokens[sequence]), tuple(logprobs[sequence]), is_end)
                    on_finished(sequence, completions[sequence])
            unfinished = [i for i, token in enumerate(chosen) if token not in self.end_ids]
            if not unfinished or position + 1 == sampling.max_tokens:
                break
            if len(unfinished) < len(live):
                rows.keep(unfinished)
                chosen_B = chosen_B[torch.tensor(unfinished, device=self.policy.device)]
                live = [live[i] for i in unfinished]
            with _threads_for(len(live)):
                hidden_B_H = rows.step(chosen_B)
        return [completions[sequence] for sequence in range(len(tokens))]


def _by_prompt(on_completion: CompletionCallback | None, start: int, count: int) -> Callable[[int, Completion], None]:
    """Wraps `on_completion` for a batch that begins at prompt `start`: maps a sequence to its prompt and sample."""
    if on_completion is None:
        return lambda _sequence, _completion: None
    return lambda sequence, completion: on_completion(start + sequence // count, sequence % count, completion)


def _choose(logits_B_V: Tensor, sampling: Sampling, random: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Returns the next tokens [B] and their log p [B] at the sampling temperature, before top-p. Modifies the logits.

    Log p ignores the top-p cut because the trainer's log p has none either.
    """
    if sampling.temperature != 1:
        logits_B_V /= sampling.temperature
    # softmax, then log of the one chosen p, takes a tenth of the time of logsumexp. It is exact enough, because a
    # token that gets sampled has a p far above the underflow range.
    probabilities_B_V = logits_B_V.softmax(-1)
    if random is None:
        chosen_B_1 = logits_B_V.argmax(-1, keepdim=True)
    else:
        kept_B_V = nucleus(probabilities_B_V, sampling.top_p) if sampling.top_p < 1 else probabilities_B_V
        # A CPU generator on every device, so samples do not depend on the accelerator.
        uniform_B = torch.rand(len(kept_B_V), generator=random, dtype=torch.float64).to(kept_B_V.device)
        chosen_B_1 = draw(kept_B_V, uniform_B)
    return chosen_B_1.squeeze(-1), probabilities_B_V.gather(-1, chosen_B_1).log_().squeeze(-1)
