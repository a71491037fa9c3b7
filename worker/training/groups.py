"""Hybrid groups: a row's demonstration, its teacher answers, and rollouts of the current policy."""

from collections.abc import Callable, Sequence

import numpy as np

from app.core.chat.encoding import Turn
from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.job import GroupMix, Sampling
from app.core.spec.reports import Source
from app.core.spec.teacher_answers import Provenance
from worker.training.interfaces import RolloutEngine
from worker.training.rollouts.sampler import generator
from worker.training.types import Completion, GroupMember, Prompt, PromptGroup

_ROLLOUT_STREAM = 1
_TEACHER_STREAM = 2
_RESAMPLING_STREAM = 8


def written_members(prompt: Prompt, mix: GroupMix, seed: int, step: int) -> list[GroupMember]:
    """Returns the demonstration and teacher members of a row; in supervised jobs a member for each trained turn.

    Of more teacher answers than `mix.teacher`, each step takes a seeded random choice, so all of them get trained on.
    """
    turns = prompt.turns if mix.expert else ()
    members = [
        _written(Source.expert, turn, number=number if len(turns) > 1 else None)
        for number, turn in enumerate(turns, start=1)
    ]
    answers = prompt.teacher_answers
    if len(answers) > mix.teacher:
        random = np.random.default_rng([seed, _TEACHER_STREAM, step, prompt.line])
        answers = tuple(answers[i] for i in sorted(random.permutation(len(answers))[: mix.teacher]))
    return members + [_written(Source.teacher, answer.turn, origin=answer.origin) for answer in answers]


def _written(source: Source, turn: Turn, *, number: int | None = None, origin: Provenance | None = None) -> GroupMember:
    return GroupMember(
        source,
        turn.ids,
        turn.text,
        finished=True,
        context=turn.context,
        turn=number,
        teacher=origin,
        parts=turn.parts,
    )


def rollout_member(prompt: Prompt, completion: Completion, tokenizer: ChatTokenizer, version: int) -> GroupMember:
    """Returns a completion as a rollout member of adapter `version`.

    Keeps the sampled ids: the tokenizer may encode the same text differently, and log p is that of the sampled ids.
    The text is for graders and display only.
    """
    return GroupMember(
        Source.self,
        completion.ids,
        tokenizer.text(completion.ids),
        completion.finished,
        sampled_logprobs=completion.logprobs,
        adapter_version=version,
        parts=tokenizer.parse(completion.ids, prompt.tools),
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
    on_member: Callable[[Prompt, GroupMember], None] = lambda _prompt, _member: None,
    resampling_round: int = 0,
) -> list[PromptGroup]:
    """Returns one group per prompt. Samples the rollouts of all prompts in one call.

    A row with fewer answers than `mix` asks for has a smaller group. Each `rank` has its own random stream, and so has
    each `resampling_round`; 0 is the first sampling of the step. Calls
    `on_member` for each member as soon as it is complete; for rollouts from any thread.
    """
    groups = [PromptGroup(prompt, written_members(prompt, mix, seed, step)) for prompt in prompts]
    for group in groups:
        for member in group.members:
            on_member(group.prompt, member)
    if mix.self_:
        random = (
            generator(seed, _RESAMPLING_STREAM, step, rank, resampling_round)
            if resampling_round
            else generator(seed, _ROLLOUT_STREAM, step, rank)
        )
        rollouts: dict[tuple[int, int], GroupMember] = {}

        def on_completion(index: int, number: int, completion: Completion) -> None:
            member = rollout_member(prompts[index], completion, tokenizer, sampler.policy.version)
            rollouts[index, number] = member
            on_member(prompts[index], member)

        sampler.sample([prompt.ids for prompt in prompts], mix.self_, sampling, random, on_completion)
        # Completions finish in any order; members are added in a fixed one, so that a resumed run builds the same
        # group.
        for index, group in enumerate(groups):
            group.members.extend(rollouts[index, number] for number in range(mix.self_))
    return groups
