"""Preference pairs (DPO): their groups, their loss, and the metrics of TRL's DPOTrainer.

A pair is a group of two members. The gradient of the DPO loss is that of - sum A log p / P with the advantage
A = beta sigmoid(-beta m) for the preferred answer and -A for the other one: pairs that the policy already orders well
pull less. P is the number of pairs of the step, and m the margin of `loss.preference_loss`.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from app.core.spec.reports import Source
from worker.training.batching import MicroBatch
from worker.training.loss import preference_loss
from worker.training.types import GroupMember, Prompt, PromptGroup

SOURCES: Final = (Source.preferred, Source.non_preferred)


class Logprobs(NamedTuple):
    """The log-probability of each answer of a pair, summed over its tokens, in nats."""

    preferred: float
    non_preferred: float


def pair_group(prompt: Prompt, reference: Logprobs | None = None) -> PromptGroup:
    """Returns the pair of a row as a group: first the preferred answer, then the other one.

    The advantages are only directions until the update knows the margin. Raises `ValueError` for a row without a pair.
    """
    if prompt.pair is None:
        raise ValueError(f"line {prompt.line} has no pair of answers")
    members = [
        GroupMember(source, turn.ids, turn.text, finished=True, context=turn.context, advantage=direction)
        for source, turn, direction in zip(SOURCES, prompt.pair, (1.0, -1.0), strict=True)
    ]
    if reference is not None:
        for member, logprob in zip(members, reference, strict=True):
            member.reference_logprob = logprob
    return PromptGroup(prompt, members)


def response_sums(batch: MicroBatch, logprobs_N: Tensor) -> Tensor:
    """Returns the log-probability [B] of each response of a micro-batch, summed in fp64."""
    # Differences of these sums are small next to the sums themselves, which are in the hundreds for long answers.
    sums_B = torch.zeros(len(batch.sequences), dtype=torch.float64, device=logprobs_N.device)
    return sums_B.index_add(0, batch.packed.response_N, logprobs_N.double())


class PairLoss:
    """The DPO loss of packed pairs; also sets reward and advantage of their members."""

    def __init__(self, beta: float, label_smoothing: float) -> None:
        self.beta = beta
        self.label_smoothing = label_smoothing

    def __call__(self, batch: MicroBatch, logprobs_N: Tensor, pairs: int) -> Tensor:
        """Returns this micro-batch's share of the loss, a scalar; `pairs` is their number in the whole step."""
        members = [member for _, member in batch.sequences]
        sums_B = response_sums(batch, logprobs_N)
        ratios_P_2 = (sums_B - sums_B.new_tensor([member.reference_logprob for member in members])).view(-1, 2)
        margins_P = ratios_P_2[:, 0] - ratios_P_2[:, 1]
        self._annotate(members, ratios_P_2.detach(), margins_P.detach())
        return preference_loss(margins_P, self.beta, self.label_smoothing, pairs)

    def _annotate(self, members: Sequence[GroupMember], ratios_P_2: Tensor, margins_P: Tensor) -> None:
        wins_P = torch.sigmoid(self.beta * margins_P)
        pull_P = self.beta * ((1 - self.label_smoothing) - wins_P)
        rewards_B = (self.beta * ratios_P_2).flatten()
        advantages_B = torch.stack([pull_P, -pull_P], dim=-1).flatten()
        for member, reward, advantage in zip(members, rewards_B.tolist(), advantages_B.tolist(), strict=True):
            member.reward, member.advantage = reward, advantage

    def held_out(self, pairs: Sequence[tuple[Logprobs, Logprobs]]) -> list[dict[str, float]]:
        """Returns `eval/loss` and the metrics of each pair, given as log p of the policy and of the reference."""
        found: list[dict[str, float]] = []
        for now, before in pairs:
            chosen, rejected = now.preferred - before.preferred, now.non_preferred - before.non_preferred
            margin_P = torch.tensor([chosen - rejected], dtype=torch.float64)
            values = {"loss": float(preference_loss(margin_P, self.beta, self.label_smoothing, 1))}
            values |= reward_metrics([Logprobs(self.beta * chosen, self.beta * rejected)]) | logprob_metrics([now])
            found.append({f"eval/{name}": value for name, value in values.items()})
        return found


def reward_metrics(rewards: Sequence[Logprobs]) -> dict[str, float]:
    """Returns TRL's metrics of the implicit rewards, beta (log p - log p of the reference)."""
    return {
        "rewards/chosen": statistics.fmean(one.preferred for one in rewards),
        "rewards/rejected": statistics.fmean(one.non_preferred for one in rewards),
        "rewards/margins": statistics.fmean(one.preferred - one.non_preferred for one in rewards),
        "rewards/accuracies": statistics.fmean(float(one.preferred > one.non_preferred) for one in rewards),
    }


def logprob_metrics(logprobs: Sequence[Logprobs]) -> dict[str, float]:
    """Returns TRL's mean log-probability of the answers."""
    return {
        "logps/chosen": statistics.fmean(one.preferred for one in logprobs),
        "logps/rejected": statistics.fmean(one.non_preferred for one in logprobs),
    }


def pair_metrics(groups: Iterable[PromptGroup]) -> dict[str, float]:
    """Returns TRL's metrics of the pairs that an update has trained on."""
    pairs = [group.members for group in groups]
    rewards = [Logprobs(*(member.reward or 0.0 for member in pair)) for pair in pairs]
    logprobs = [Logprobs(*(math.fsum(member.trainer_logprobs) for member in pair)) for pair in pairs]
    return reward_metrics(rewards) | logprob_metrics(logprobs)
