"""Replaces groups without contrast by groups of other prompts, within a budget: DAPO's dynamic sampling (2503.14476).

Prompts and rollouts are functions of (seed, step, round), so a resumed run repeats them.
"""

from collections.abc import Callable, Iterable, Sequence

from worker.training.types import Prompt, PromptGroup


def replace_groups_without_contrast(
    groups: list[PromptGroup],
    rounds: int,
    spare: Iterable[Prompt],
    roll_out: Callable[[Sequence[Prompt], int], Sequence[PromptGroup]],
) -> int:
    """Replaces groups in place until all have contrast, at most `rounds` times. Returns the number of discarded groups.

    `roll_out(prompts, round)` returns graded groups; rounds count from 1. Each replacement takes the next `spare`
    prompt; once these are used up, the group's own prompt gets new rollouts.
    """
    spares = iter(spare)
    discarded = 0
    for number in range(1, rounds + 1):
        flat = [index for index, group in enumerate(groups) if group.zero_variance]
        if not flat:
            break
        prompts = [next(spares, groups[index].prompt) for index in flat]
        for index, group in zip(flat, roll_out(prompts, number), strict=True):
            groups[index] = group
        discarded += len(flat)
    return discarded
