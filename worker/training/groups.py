"""Hybrid groups: a row's demonstration, its teacher answers, and rollouts of the current policy."""

from collections.abc import Callable, Sequence

import numpy as np

from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.job import GroupMix, Sampling
from app.core.spec.reports import Source
from worker.training.interfaces import RolloutEngine
from worker.training.rollouts.sampler import generator
from worker.training.types import Completion, GroupMember, Prompt, PromptGroup, Turn

_ROLLOUT_STREAM = 1
_TEACHER_STREAM = 2


def demonstration_turns(prompt: Prompt, tokenizer: ChatTokenizer, *, every_turn: bool) -> tuple[Turn, ...]:
    """Returns the turns that are trained on: every trained turn of the row, or its demonstration only."""
    if every_turn and prompt.turns:
        return prompt.turns
    if prompt.demonstration is None:
        return ()
    return prompt.turns[-1:] or (Turn(prompt.ids, tokenizer.response_ids(prompt.demonstration), prompt.demonstration),)


def written_members(
    prompt: Prompt, mix: GroupMix, tokenizer: ChatTokenizer, seed: int, step: int, *, every_turn: bool = False
) -> list[GroupMember]:
    """Returns the demonstration and teacher members of a row; with `every_turn` a member for each trained turn.

    Of more teacher answers than `mix.teacher`, each step takes a seeded random choice, so all of them get trained on.
    """
    turns = demonstration_turns(prompt, tokenizer, every_turn=every_turn) if mix.expert else ()
    members = [
        GroupMember(
            Source.expert,
            turn.ids,
            turn.text,
            finished=True,
            context=turn.context,
            turn=number if len(turns) > 1 else None,
        )
        for number, turn in enumerate(turns, start=1)
    ]
    answers = prompt.teacher_answers
    if len(answers) > mix.teacher:
        random = np.random.default_rng([seed, _TEACHER_STREAM, step, prompt.line])
        answers = tuple(answers[i] for i in sorted(random.permutation(len(answers))[: mix.teacher]))
    members.extend(
        GroupMember(
            Source.teacher, tokenizer.response_ids(answer.text), answer.text, finished=True, teacher=answer.origin
        )
        for answer in answers
    )
    return members


def rollout_member(completion: Completion, tokenizer: ChatTokenizer, version: int) -> GroupMember:
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
    *,
    every_turn: bool = False,
    on_member: Callable[[Prompt, GroupMember], None] = lambda _prompt, _member: None,
) -> list[PromptGroup]:
    """Returns one group per prompt. Samples the rollouts of all prompts in one call.

    A row with fewer answers than `mix` asks for has a smaller group. With `every_turn` each trained turn of a row is a
    member, else only its demonstration. Each `rank` has its own random stream. Calls
    `on_member` for each member as soon as it is complete; for rollouts from any thread.
    """
    groups = [
        PromptGroup(prompt, written_members(prompt, mix, tokenizer, seed, step, every_turn=every_turn))
        for prompt in prompts
    ]
    for group in groups:
        for member in group.members:
            on_member(group.prompt, member)
    if mix.self_:
        random = generator(seed, _ROLLOUT_STREAM, step, rank)
        rollouts: dict[tuple[int, int], GroupMember] = {}

        def on_completion(index: int, number: int, completion: Completion) -> None:
            member = rollout_member(completion, tokenizer, sampler.policy.version)
            rollouts[index, number] = member
            on_member(prompts[index], member)

        sampler.sample([prompt.ids for prompt in prompts], mix.self_, sampling, random, on_completion)
        # Completions finish in any order; members are added in a fixed one, so that a resumed run builds the same
        # group.
        for index, group in enumerate(groups):
            group.members.extend(rollouts[index, number] for number in range(mix.self_))
    return groups
