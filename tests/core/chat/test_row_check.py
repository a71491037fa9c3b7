"""Counts of usable rows: the same as encoding every row, with reasons, lines and what is left out."""

import json
from collections import Counter
from typing import Any, Final

import pytest

from app.core.chat.encoding import Drop, RowRules, encode
from app.core.chat.row_check import Omission, RowCounts, count_rows
from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer
from app.core.spec.rows import Row, parse_row
from tests.chat_templates import SOURCES, tokenizer
from tests.tiny_model import CHAT_TEMPLATE, character_tokenizer

TOOL: Final = {"type": "function", "function": {"name": "tide_table", "description": "d", "parameters": {}}}
CALL: Final = {"id": "call00001", "type": "function", "function": {"name": "tide_table", "arguments": "{}"}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


RESULT: Final = {"role": "tool", "tool_call_id": "call00001", "content": "06:12"}
CHATS: Final[list[dict[str, Any]]] = [
    {"messages": [user("When?"), assistant("At 06:12.")]},
    {"messages": [user("When?"), assistant("At " + "6" * 300)]},
    {"messages": [user("W" * 300), assistant("At 06:12.")]},
    {"messages": [user("When?")]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            user("When?"),
            assistant("Ja, \u00e4\u00f6\u00fc\U0001f30a."),
        ]
    },
    {"messages": [user("When?"), assistant("Which town?"), user("Oban"), assistant("At 06:12.")]},
    {"messages": [user("When?"), assistant("6" * 200), user("Oban"), assistant("At 06:12.")]},
    {"messages": [user("When?"), assistant("At 06:12.", reasoning_content="Tides come twice a day.")]},
    {"messages": [user("When?"), assistant(None, tool_calls=[CALL])], "tools": [TOOL]},
    {"messages": [user("When?"), assistant(None, tool_calls=[CALL]), RESULT, assistant("At 06:12.")], "tools": [TOOL]},
    {"messages": [user("How do I end a turn?"), assistant("Write </s> or <|im_end|>.")]},
    {"messages": [user("When?"), assistant("Soon.")], "teacher_responses": ["At 06:12.", "6" * 300]},
    {"prompt": "When?", "chosen": "At 06:12.", "rejected": "6" * 200},
]
ROWS: Final = [parse_row(json.dumps(chat), line) for line, chat in enumerate(CHATS, start=1)]
RULES: Final = {
    "supervised": RowRules("all", 160),
    "thoughts are context": RowRules("all", 160, train_reasoning=False),
    "last turn, short": RowRules("last", 60),
    "groups": RowRules("last", 200, max_new_tokens=40, answers_later=True),
    "rollouts alone": RowRules("last", 120, 40, takes_demonstration=False, takes_teacher=False, answers_later=True),
    "everything fits": RowRules("all", 100_000),
}


def encoded_one_by_one(rows: list[Row], chat: ChatTokenizer, rules: RowRules) -> tuple[int, Counter[Drop]]:
    """Count the rows that the trainer's own function uses and loses."""
    used, lost = 0, Counter[Drop]()
    for row in rows:
        try:
            reason = encode(row, chat, rules).lost
        except TemplateRefused:
            reason = Drop.template_refused
        used += reason is None
        lost.update([] if reason is None else [reason])
    return used, lost


def counted(rows: list[Row], chat: ChatTokenizer, rules: RowRules) -> RowCounts:
    return count_rows(enumerate(rows, start=1), chat, rules)


@pytest.mark.parametrize("name", SOURCES)
def test_counts_are_those_of_the_trainer(name: str) -> None:
    """Most rows are rendered only; with a byte-level tokenizer, the limit for that is as close as it can be."""
    chat = tokenizer(name)
    for rules in RULES.values():
        counts = counted(ROWS, chat, rules)
        assert (counts.used, Counter(counts.dropped)) == encoded_one_by_one(ROWS, chat, rules)
        assert set(counts.first) == set(counts.dropped) | set(counts.omitted)


def test_every_length_around_the_limit() -> None:
    chat = tokenizer("trl/qwen3")
    rows = [parse_row(json.dumps({"prompt": "When?", "completion": "6" * size}), size) for size in range(1, 120)]
    for limit in (60, 80, 100):
        rules = RowRules("all", limit)
        counts = counted(rows, chat, rules)
        assert (counts.used, Counter(counts.dropped)) == encoded_one_by_one(rows, chat, rules)
        assert 0 < counts.used < len(rows)


def plain() -> ChatTokenizer:
    return ChatTokenizer(character_tokenizer(), {"default": CHAT_TEMPLATE}, {"eos_token": "<|im_end|>"})


def test_summary_names_reasons_and_lines() -> None:
    rows = [ROWS[0], ROWS[1], ROWS[1], ROWS[3]]
    counts = counted(rows, plain(), RowRules("all", 160))
    assert counts.dropped == {Drop.answer_too_long: 2, Drop.no_answer: 1}
    assert counts.summary("training file") == (
        "3 of 4 rows of the training file are not used: 2 with an answer that is too long (line 2: the demonstration "
        "has 359 tokens with its prompt, which exceeds 160), 1 without an answer to learn from (line 4: it has no "
        "answer)"
    )
    assert counts.is_worrying
    assert counts.cure().startswith("Shorten the rows")
    assert not counted([ROWS[0]] * 9 + [ROWS[3]], plain(), RowRules("all", 160)).is_worrying


def test_what_the_template_leaves_out_is_counted() -> None:
    """The template of the tiny model knows neither tools nor thoughts, like those of many small models."""
    answer_with_history = parse_row(json.dumps(CHATS[9]), 1)
    thoughtful = parse_row(json.dumps(CHATS[7]), 2)
    counts = counted([answer_with_history, thoughtful, ROWS[11], ROWS[0]], plain(), RowRules("last", 200))
    assert counts.dropped == {}
    assert counts.omitted == {Omission.tools: 1, Omission.tool_calls: 1, Omission.parts: 1, Omission.answers: 1}
    assert [counts.first[one].line for one in Omission] == [3, 2, 1, 1]
    sentences = dict(counts.omissions("training file"))
    assert sentences[Omission.tools] == (
        "1 of 4 rows of the training file are trained without their `tools`, which the chat template does not show to "
        "the model (the first is line 1)"
    )
    whole = counted([answer_with_history, thoughtful], tokenizer("trl/qwen3"), RowRules("all", 100_000))
    assert (whole.used, whole.omitted) == (2, {})
