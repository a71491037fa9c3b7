"""Groups of a step, built from rows and rollouts."""

import dataclasses
from typing import Any

import pytest

from app.core.chat.encoding import Turn
from app.core.chat.encoding import turn as encode_turn
from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.job import GroupMix, Sampling
from app.core.spec.reports import Source
from app.core.spec.teacher_answers import Provenance
from tests import chat_templates as published
from tests.answers import RULES, answer_ids, answer_turn
from tests.worker.training import chat_templates
from tests.worker.training.architectures import randomise
from worker.training.groups import build_groups, rollout_member, written_members
from worker.training.model import Policy
from worker.training.rollouts.sampler import Sampler, generator
from worker.training.types import Completion, Prompt, PromptGroup, UsableAnswer

MIX = GroupMix(expert=1, teacher=2, self_=3)
SAMPLING = Sampling(max_tokens=5)


@pytest.fixture
def prompts(chat_tokenizer: ChatTokenizer) -> list[Prompt]:
    """Five, one and no teacher answers; the last row has no demonstration either."""

    def prompt(line: int, question: str, expert: str | None, *teachers: str) -> Prompt:
        ids = chat_tokenizer.prompt_ids([{"role": "user", "content": question}])
        origin = Provenance(model=None, provider="file")
        answers = tuple(UsableAnswer(answer_turn(chat_tokenizer, text, question), origin) for text in teachers)
        turns = () if expert is None else (answer_turn(chat_tokenizer, expert, question),)
        return Prompt(line, question, ids, answers, {}, turns=turns)

    return [
        prompt(1, "1+1=", "2", "a", "b", "c", "d", "e"),
        prompt(2, "what is 2+2?", "4", "f"),
        prompt(3, "3+3=", None),
    ]


@pytest.fixture
def sampler(chat_policy: Policy, chat_tokenizer: ChatTokenizer) -> Sampler:
    return Sampler(randomise(chat_policy), chat_tokenizer.end_ids, chat_tokenizer.pad_id)


def build(
    prompts: list[Prompt], sampler: Sampler, tokenizer: ChatTokenizer, *, mix: GroupMix = MIX, step: int = 1
) -> list[PromptGroup]:
    return build_groups(prompts, mix, SAMPLING, sampler, tokenizer, 7, step)


def test_fewer_answers_give_a_smaller_group(
    prompts: list[Prompt], sampler: Sampler, chat_tokenizer: ChatTokenizer
) -> None:
    groups = build(prompts, sampler, chat_tokenizer)
    expert, teacher, own = Source.expert, Source.teacher, Source.self
    assert [[member.source for member in group.members] for group in groups] == [
        [expert, teacher, teacher, own, own, own],
        [expert, teacher, own, own, own],
        [own, own, own],
    ]
    assert [group.prompt.line for group in groups] == [1, 2, 3]


def test_rollouts_keep_ids_and_adapter_version(
    prompts: list[Prompt], sampler: Sampler, chat_tokenizer: ChatTokenizer
) -> None:
    sampler.policy.version = 41
    groups = build(prompts, sampler, chat_tokenizer, step=5)
    drawn = sampler.sample([prompt.ids for prompt in prompts], 3, SAMPLING, generator(7, 1, 5))
    for group, completions in zip(groups, drawn, strict=True):
        own = [member for member in group.members if member.source is Source.self]
        assert [(m.ids, m.sampled_logprobs, m.finished) for m in own] == [dataclasses.astuple(c) for c in completions]
        assert [member.text for member in own] == [chat_tokenizer.text(completion.ids) for completion in completions]
        assert {member.adapter_version for member in own} == {41}


def test_sampled_ids_are_not_retokenised() -> None:
    """Tokens that a model may choose one by one though its tokenizer has a longer one for them."""
    chat = chat_templates.chat(chat_templates.CHATML)
    cut_off = tuple(chat.backend.encode(letter).ids[0] for letter in "answer")
    sampled, written = (*cut_off, chat.end_id), answer_ids(chat, "answer")
    assert len(sampled) > len(written)
    assert chat.text(sampled) == chat.text(written) == "answer"
    prompt = Prompt(1, "", (1,), (), {})
    for ids, finished in ((sampled, True), (cut_off, False)):
        assert rollout_member(prompt, Completion(ids, (-1.0,) * len(ids), finished), chat, 3).ids == ids


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    }
]
MESSAGES: dict[str, dict[str, Any]] = {
    "thoughts": {"role": "assistant", "content": "4", "reasoning_content": "Two pairs."},
    "call": {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "add", "arguments": {"n": 4}}}],
    },
    "tagged": {"role": "assistant", "content": "<think>\nTwo pairs.\n</think>\n\n4"},
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("template", ["trl/qwen3", "trl/qwen3_6", "trl/glm4moe_training"])
def test_all_sources_are_graded_alike(name: str, template: str) -> None:
    """A model that writes the demonstration itself is graded on the same sample."""
    chat = published.tokenizer(template)
    rendered = chat.prompt([{"role": "user", "content": "2+2="}], TOOLS)
    turn = encode_turn(chat, rendered, MESSAGES[name], RULES)
    prompt = Prompt(1, "2+2=", rendered.ids, (), {}, tools=tuple(TOOLS), turns=(turn,))
    [written] = written_members(prompt, GroupMix(expert=1, teacher=0, self_=0), 7, 1)
    completion = Completion(turn.ids, (-1.0,) * len(turn.ids), finished=True)
    own = rollout_member(prompt, completion, chat, 1)
    assert own.sample == written.sample
    assert own.sample.output_text == (MESSAGES[name]["content"] or "")[-1:]
    assert own.sample.output_reasoning == ("" if name == "call" else "Two pairs.")
    assert [call["function"]["arguments"] for call in own.sample.output_tools] == ['{"n": 4}'] * (name == "call")
    assert ("Two pairs." in own.text) == ("Two pairs." in written.text) == (name != "call")


def test_written_members_have_no_version(prompts: list[Prompt], chat_tokenizer: ChatTokenizer) -> None:
    expert, *teachers = written_members(prompts[0], MIX, 7, 1)
    assert (expert.source, expert.text, expert.ids) == (Source.expert, "2", answer_ids(chat_tokenizer, "2"))
    for member in (expert, *teachers):
        assert member.finished
        assert member.ids[-1] == chat_tokenizer.end_id
        assert member.adapter_version is None
        assert member.sampled_logprobs == ()


def test_surplus_teacher_answers_are_sampled(prompts: list[Prompt]) -> None:
    def chosen(seed: int, step: int) -> tuple[str, ...]:
        return tuple(member.text for member in written_members(prompts[0], MIX, seed, step)[1:])

    assert chosen(7, 3) == chosen(7, 3)
    choices = [chosen(7, step) for step in range(60)]
    assert {text for choice in choices for text in choice} == set("abcde")
    assert all(len(set(choice)) == 2 and list(choice) == sorted(choice) for choice in choices)
    assert choices != [chosen(8, step) for step in range(60)]


def test_mix_leaves_out_sources(prompts: list[Prompt], sampler: Sampler, chat_tokenizer: ChatTokenizer) -> None:
    own = build(prompts, sampler, chat_tokenizer, mix=GroupMix(expert=0, teacher=0, self_=2))
    assert {member.source for group in own for member in group.members} == {Source.self}
    given = build(prompts, sampler, chat_tokenizer, mix=GroupMix(expert=1, teacher=0, self_=0))
    assert [[member.source for member in group.members] for group in given] == [[Source.expert], [Source.expert], []]


TURNS = (Turn((3, 4), (5, 2), "first"), Turn((3, 4, 5, 2, 6), (7, 2), "second"))


def test_every_turn_is_a_member(prompts: list[Prompt]) -> None:
    row = dataclasses.replace(prompts[0], turns=TURNS)
    members = written_members(row, GroupMix(expert=1, teacher=0, self_=0), 7, 1)
    assert [(member.context_in(row), member.ids, member.text, member.turn) for member in members] == [
        ((3, 4), (5, 2), "first", 1),
        ((3, 4, 5, 2, 6), (7, 2), "second", 2),
    ]
    assert {(member.source, member.finished) for member in members} == {(Source.expert, True)}


def test_single_turn_has_no_number(prompts: list[Prompt]) -> None:
    """A group compares answers to one prompt; earlier turns are context."""
    row = dataclasses.replace(prompts[0], turns=TURNS[1:])
    expert, *teachers = written_members(row, MIX, 7, 1)
    assert (expert.context_in(row), expert.text, expert.turn) == ((3, 4, 5, 2, 6), "second", None)
    assert [member.context_in(row) for member in teachers] == [row.ids, row.ids]
