"""Hybrid groups: the row's demonstration, its teacher responses and the policy's own rollouts."""

from collections.abc import Callable, Sequence

import numpy as np

from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.job import GroupMix, Sampling
from app.core.spec.reports import Source
from app.core.spec.teacher_answers import Provenance
from worker.training.interfaces import RolloutEngine
from worker.training.rollouts.sampler import generator
from worker.training.types import Completion, GroupMember, Prompt, PromptGroup

_ROLLOUT_STREAM = 1
_TEACHER_STREAM = 2


def given_members(prompt: Prompt, mix: GroupMix, tokenizer: ChatTokenizer, seed: int, step: int) -> list[GroupMember]:
    """Expert and teacher members of a row; of more teacher responses than asked for, a seeded choice."""
    given: list[tuple[Source, str, Provenance | None]] = []
    if mix.expert and prompt.demonstration is not None:
        given.append((Source.expert, prompt.demonstration, None))
    teachers = prompt.teacher_answers
    if len(teachers) > mix.teacher:
        random = np.random.default_rng([seed, _TEACHER_STREAM, step, prompt.line])
        teachers = tuple(teachers[i] for i in sorted(random.permutation(len(teachers))[: mix.teacher]))
    given.extend((Source.teacher, one.text, one.origin) for one in teachers)
    return [
        GroupMember(source, tokenizer.response_ids(text), text, finished=True, teacher=origin)
        for source, text, origin in given
    ]


def rollout_member(completion: Completion, tokenizer: ChatTokenizer, version: int) -> GroupMember:
    """A rollout: its sampled ids are kept as they are, the text is for graders and people only."""
    return GroupMember(
        Source.self,
        completion.ids,
        tokenizer.text(completion.ids),
        completion.finished,
        sampled_logprobs=completion.logprobs,
        adapter_version=version,
    )


def build_groups(
    prompts: Sequence[Prompt],
    mix: GroupMix,
    sampling: Sampling,
    sampler: RolloutEngine,
    tokenizer: ChatTokenizer,
    seed: int,
    step: int,
    rank: int = 0,
    appeared: Callable[[Prompt, GroupMember], None] = lambda _prompt, _member: None,
) -> list[PromptGroup]:
    """One group a prompt, all rollouts decoded in one call; a row with fewer answers has a smaller group.

    `rank` is that of the process: each draws numbers of its own for its share of the step. `appeared` hears of each
    member as soon as it is whole, rollouts from any thread.
    """
    groups = [PromptGroup(prompt, given_members(prompt, mix, tokenizer, seed, step)) for prompt in prompts]
    for group in groups:
        for member in group.members:
            appeared(group.prompt, member)
    if mix.self_:
        random = generator(seed, _ROLLOUT_STREAM, step, rank)
        rollouts: dict[tuple[int, int], GroupMember] = {}

        def drawn(index: int, number: int, completion: Completion) -> None:
            member = rollout_member(completion, tokenizer, sampler.policy.version)
            rollouts[index, number] = member
            appeared(prompts[index], member)

        sampler.sample([prompt.ids for prompt in prompts], mix.self_, sampling, random, drawn)
        for index, group in enumerate(groups):
            group.members.extend(rollouts[index, number] for number in range(mix.self_))
    return groups
