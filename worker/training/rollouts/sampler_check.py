"""Compares what the sampler draws with what training computes for the same tokens, before a job starts.

Sampling reads keys, values and states from a cache, for several prompts at once. An architecture whose cache, positions
or padding work in another way would sample from another distribution than training assumes, without any error. So
answers to a few prompts are sampled with their log-probabilities, which must equal those of whole sequences. If they
do not, the policy takes the plain path, and if that is not enough, transformers samples without a cache.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from app.core.spec.job import Sampling
from worker.training.base_model import unsupported_on_error
from worker.training.batching import Example, pack
from worker.training.distributed import PeerLost
from worker.training.failures import diagnose
from worker.training.model import Policy
from worker.training.rollouts.sampler import Sampler, generator
from worker.training.self_check import ordinary_tokens, random_b, select_path, tolerance_of
from worker.training.short_limits import SHORT, short_limits

_ANSWERS, _TOKENS = 2, 3
_LENGTHS = (3, 2 * SHORT + 4, 6)
_SHARED, _RESTS = SHORT + 4, (2, 5)
_END_EVERY = 5
"""Each fifth token ends an answer, so that some sequences leave the batch early."""


def check_sampler(policy: Policy, directory: Path, max_length: int | None = None) -> None:
    """Makes `policy` sample as it trains, by another path or without a cache if need be, and notes the reason.

    `directory` has the base model; `max_length` as for `select_path`. Raises `JobFailure` if nothing helps.
    """
    with unsupported_on_error(directory):
        reason = _problem(policy)
        if reason is not None and policy.is_fast:
            select_path(policy, max_length, avoid=reason)
            reason = _problem(policy)
        if reason is not None:
            policy.uses_cache = False
            policy.notes.append(f"Answers are sampled without a cache, which is slow: with one, {reason}")
            if (rest := _problem(policy)) is not None:
                raise ValueError(rest)
        if policy.is_fast and (reason := _problem(policy, greedy=True)) is not None:
            policy.decodes_exactly = False
            policy.notes.append(f"Held-out answers are decoded with padding, unlike in the inference engine: {reason}")


@torch.no_grad()
def _problem(policy: Policy, *, greedy: bool = False) -> str | None:
    """Returns in which way samples, or greedy answers, are wrong, as a clause, or None."""
    try:
        with short_limits(policy.causal), random_b(policy), policy.lockstep():
            differences = [_differences(policy, prompts, greedy=greedy) for prompts in _prompts(policy)]
    except Exception as error:  # a cache may lack any part that sampling needs
        if isinstance(error, OSError | PeerLost) or diagnose(error) is not None:
            raise
        return f"sampling fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    difference = float(torch.cat(differences).square().mean().sqrt())
    if difference <= tolerance_of(policy).logprobs:
        return None
    return f"log-probabilities of sampled tokens differ by {difference:.2g} nats from those in training"


def _prompts(policy: Policy) -> list[list[tuple[int, ...]]]:
    """Returns prompts of different lengths, also beyond all windows, and prompts that share their beginning."""
    usable = ordinary_tokens(policy.causal.config)
    random = torch.Generator().manual_seed(2)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(usable[torch.randint(len(usable), (length,), generator=random)].tolist())

    shared = ids(_SHARED)
    return [[ids(length) for length in _LENGTHS], [shared + ids(length) for length in _RESTS]]


def _differences(policy: Policy, prompts: Sequence[tuple[int, ...]], *, greedy: bool) -> torch.Tensor:
    """Returns log p of each sampled token [N], sampled minus computed, in nats."""
    usable = ordinary_tokens(policy.causal.config).tolist()
    sampler = Sampler(policy, usable[::_END_EVERY], pad_id=usable[0])
    answers, random = (1, None) if greedy else (_ANSWERS, generator(0))
    samples = sampler.sample(prompts, answers, Sampling(max_tokens=_TOKENS, temperature=1.0), random)
    ordinary = set(usable)
    groups: list[list[Example]] = []
    sampled: list[float] = []
    for prompt, sampled_answers in zip(prompts, samples, strict=True):
        group: list[Example] = []
        for answer in sampled_answers:
            # The input of an image's token, for example, is not its embedding alone.
            kept = next((place for place, token in enumerate(answer.ids) if token not in ordinary), len(answer.ids))
            if kept:
                group.append((prompt, answer.ids[:kept]))
                sampled += answer.logprobs[:kept]
        if group:
            groups.append(group)
    if not groups:
        return torch.zeros(1)
    computed_N, _ = policy.logprobs(pack(groups, policy.device), 1.0)
    return torch.tensor(sampled) - computed_N.float().cpu()
