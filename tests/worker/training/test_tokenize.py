"""Rows to ids, with the chat templates of real model families."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from app.core.chat.encoding import RowRules
from app.core.chat.tokenizer import ChatTokenizer, UnusableTokenizer
from app.core.spec.reports import TrainerExit
from tests import chat_templates as published
from tests.answers import answer_ids
from tests.worker.training.chat_templates import CHATML, FAMILIES, LLAMA_3, PLAIN, THINKING, Family, ours, tokenizer
from worker.training.tokenize import load_prompts, load_tokenizer
from worker.training.types import JobFailure, Prompt

ANSWERS = [
    "42",
    "",
    "  two spaces before, two after  ",
    "\n\nlines\n",
    "Zoë n'est pas naïve: 日本語 \U0001f600",
    "def add(a, b):\n    return a + b",
    "He said: no , never .",
]
CHAT = [
    {"role": "user", "content": "What is 12+30?"},
    {"role": "assistant", "content": "41"},
    {"role": "user", "content": "Try again."},
]


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def rendered_answer(raw: Any, family: Family, answer: str) -> str:
    """The rendering with the answer minus the rendering without, up to the end of the turn."""
    question = [{"role": "user", "content": "2+2="}]
    prompt = raw.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    whole = raw.apply_chat_template([*question, {"role": "assistant", "content": answer}], tokenize=False)
    if not whole.startswith(prompt):  # the prompt opens a thought, which the history lacks
        assert family is THINKING
        return f"\n</think>\n\n{answer}{family.end}"
    rest: str = whole[len(prompt) :]
    return answer + family.end if family is PLAIN else rest.rstrip("\n")


@pytest.mark.parametrize("answer", [answer for answer in ANSWERS if answer.strip()])
def test_trained_tokens_are_answer_and_one_end(family: Family, answer: str) -> None:
    raw = tokenizer(family)
    chat = ours(raw)
    ids = answer_ids(chat, answer)
    end = raw.convert_tokens_to_ids(family.end)
    assert chat.end_id == end
    assert ids.count(end) == 1
    assert ids[-1] == end
    assert raw.decode(list(ids), skip_special_tokens=False) == rendered_answer(raw, family, answer)


def test_end_of_turn_may_differ_from_eos() -> None:
    raw = tokenizer(LLAMA_3)
    assert ours(raw).end_id == raw.convert_tokens_to_ids("<|eot_id|>") != raw.eos_token_id


def test_special_tokens_in_a_demonstration_are_text(family: Family) -> None:
    """A demonstration about chat formats must neither end early nor open a turn."""
    raw = tokenizer(family)
    chat = ours(raw)
    text = f"Write {family.end} at the end" + "".join(family.others)
    ids = answer_ids(chat, text)
    assert set(ids[:-1]).isdisjoint(raw.all_special_ids)
    assert ids.count(chat.end_id) == 1
    assert chat.text(ids).endswith(text)


def test_added_tokens_stay_single_tokens() -> None:
    """`<think>` and `<tool_call>` are added tokens too, but part of what a model says."""
    raw = tokenizer(CHATML)
    raw.add_tokens(["<think>"])
    chat = ours(raw)
    assert answer_ids(chat, "<think>")[0] == raw.convert_tokens_to_ids("<think>")
    assert chat.text(answer_ids(chat, "<think>4")) == "<think>4"


def test_prompt_has_only_the_templates_bos(family: Family) -> None:
    raw = tokenizer(family)
    chat = ours(raw)
    answer_ids(chat, family.end)  # reading text as text must not last
    ids = chat.prompt_ids(CHAT)
    rendered = raw.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert raw.decode(list(ids), skip_special_tokens=False) == rendered
    if family.bos is not None:
        assert ids.count(raw.bos_token_id) == 1
        assert ids[0] == raw.bos_token_id


def test_response_has_no_bos(family: Family) -> None:
    raw = tokenizer(family)
    assert raw.bos_token_id is None or raw.bos_token_id not in answer_ids(ours(raw), "42")


def test_saved_tokenizer_equals_transformers(family: Family, tmp_path: Path) -> None:
    """Also what shows it: the texts of the tokens are the rendered chat and the answer, character by character."""
    tokenizer(family).save_pretrained(tmp_path)
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    chat = load_tokenizer(tmp_path)
    rendered = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    expected = tuple(theirs(rendered, add_special_tokens=False)["input_ids"])
    assert chat.prompt_ids(CHAT) == chat.prompt(CHAT).piece.ids == expected
    assert "".join(chat.prompt(CHAT).piece.texts) == rendered
    for answer in filter(str.strip, ANSWERS):
        piece = chat.answer(chat.prompt(CHAT), {"role": "assistant", "content": answer}).piece
        assert len(piece.texts) == len(piece.ids)
        assert "".join(piece.texts).endswith(answer.strip() + family.end) or answer in "".join(piece.texts)


TOOLS_TEMPLATE = """
{%- set ns = namespace(first=true) %}
{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}
{{ tool.function.parameters | tojson(indent=2) }}{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
    {%- if message.role == 'banned' %}{{ raise_exception('No ' ~ message.role) }}{% endif %}
    {%- if loop.index > 8 %}{% break %}{% endif %}
    {%- if not ns.first %}{{ '\n' }}{% endif %}{% set ns.first = false %}
    {%- if message.tool_calls is defined %}
        {%- for call in message.tool_calls %}<|im_start|>call {{ call.function | tojson }}<|im_end|>{% endfor %}
        {%- continue %}
    {%- endif %}
    {%- generation %}<|im_start|>{{ message.role }}\n{{ message.content.strip().split('</think>')[-1] }}<|im_end|>
    {%- endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}"""


def test_tool_templates_render_as_transformers(tmp_path: Path) -> None:
    raw = tokenizer(CHATML)
    raw.chat_template = {"default": CHATML.template, "tool_use": TOOLS_TEMPLATE}
    raw.save_pretrained(tmp_path)
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    chat = load_tokenizer(tmp_path)
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": "é <b>", "b": [1, 2.5]}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": " add <|im_end|> "},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": "<think>so</think>3"},
        *CHAT * 3,
    ]
    parameters = {"type": "object", "x": ["'", '"']}
    tools: list[dict[str, Any]] = [{"type": "function", "function": {"name": "add", "parameters": parameters}}]
    for given in (tools, None):
        shown = messages if given else CHAT
        rendered = theirs.apply_chat_template(shown, tools=given, tokenize=False, add_generation_prompt=True)
        assert "".join(chat.prompt(shown, given or ()).piece.texts) == rendered
        assert chat.prompt_ids(shown, given or ()) == tuple(theirs(rendered, add_special_tokens=False)["input_ids"])


def test_row_rejected_by_the_template_is_named(tmp_path: Path) -> None:
    raw = tokenizer(CHATML)
    raw.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + (
        CHATML.template
    )
    system = json.dumps({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}).encode()
    prompts, warnings = load(tmp_path / "rows.jsonl", row("4"), system, chat=ours(raw))
    assert [prompt.line for prompt in prompts] == [1]
    assert warnings == ["line 2: dropped, the model's chat template rejects the messages: No system role"]


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ 1 / 0 }}"])
def test_templates_run_in_a_sandbox(template: str) -> None:
    raw = tokenizer(CHATML)
    raw.chat_template = template
    with pytest.raises(UnusableTokenizer, match="template rejects"):
        ours(raw)


def test_end_token_is_trained_once_as_padding() -> None:
    raw = tokenizer(CHATML, pad="<|im_end|>")
    chat = ours(raw)
    assert chat.pad_id == chat.end_id == raw.pad_token_id
    assert answer_ids(chat, "42").count(chat.end_id) == 1


def test_end_token_pads_without_pad_token() -> None:
    chat = ours(tokenizer(PLAIN))
    assert chat.pad_id == chat.end_id


def test_text_drops_only_the_end_token() -> None:
    chat = ours(tokenizer(CHATML))
    finished = answer_ids(chat, "42")
    assert chat.text(finished) == "42"
    assert chat.text(finished[:-1]) == "42"
    assert chat.text([]) == ""
    assert chat.text([chat.end_id]) == ""


def test_tokenizer_without_template_is_rejected(tmp_path: Path) -> None:
    raw = tokenizer(PLAIN)
    raw.chat_template = None
    raw.save_pretrained(tmp_path)
    with pytest.raises(JobFailure, match="Choose an instruct model") as caught:
        load_tokenizer(tmp_path)
    assert (caught.value.exit_code, caught.value.code) == (TrainerExit.bad_config, "model_without_chat_template")
    assert caught.value.param == "model"


def test_model_without_end_of_turn_is_rejected() -> None:
    raw = tokenizer(PLAIN)
    raw.eos_token = None
    with pytest.raises(UnusableTokenizer, match="the token that ends a turn"):
        ours(raw)


def row(answer: str | None, question: str = "2+2=", **fields: Any) -> bytes:
    messages = [{"role": "user", "content": question}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return json.dumps({"messages": messages, **fields}).encode()


def load(
    path: Path, *rows: bytes, max_length: int = 64, max_new: int = 1, chat: ChatTokenizer
) -> tuple[list[Prompt], list[str]]:
    path.write_bytes(b"\n".join(rows) + b"\n")
    warnings: list[str] = []
    rules = RowRules(turns="last", max_length=max_length, max_new_tokens=max_new, answers_later=True)
    return load_prompts(path, chat, rules, warnings.append), warnings


def test_prompts_keep_their_line_numbers(tmp_path: Path, chat_tokenizer: ChatTokenizer) -> None:
    rows = [row("4"), b"", row(None, reference_answer="4"), row("5", teacher_responses=["4", {"content": "four"}])]
    prompts, warnings = load(tmp_path / "rows.jsonl", *rows, chat=chat_tokenizer)
    assert warnings == []
    assert [prompt.line for prompt in prompts] == [1, 3, 4]
    assert [[turn.text for turn in prompt.turns] for prompt in prompts] == [["4"], [], ["5"]]
    assert [one.turn.text for one in prompts[2].teacher_answers] == ["4", "four"]
    assert prompts[1].item["reference_answer"] == "4"
    assert {prompt.text for prompt in prompts} == {"2+2="}
    assert chat_tokenizer.text(prompts[0].ids) == "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n"


def test_too_long_demonstration_is_dropped(tmp_path: Path, chat_tokenizer: ChatTokenizer) -> None:
    """Cut off, it would lose its answer, be graded 0 and be trained down."""
    prompt_length = len(chat_tokenizer.prompt_ids([{"role": "user", "content": "2+2="}]))
    rows = [row("x" * 9), row("x" * 10, teacher_responses=["4", "y" * 10])]
    prompts, warnings = load(tmp_path / "rows.jsonl", *rows, max_length=prompt_length + 10, chat=chat_tokenizer)
    assert [[turn.text for turn in prompt.turns] for prompt in prompts] == [
        ["x" * 9],
        [],
    ]  # 9 characters and the end token fit exactly
    assert [one.turn.text for one in prompts[1].teacher_answers] == ["4"]
    assert len(warnings) == 2
    assert all(warning.startswith("line 2: ") for warning in warnings)
    assert f"has {prompt_length + 11} tokens with its prompt, which exceeds {prompt_length + 10}" in warnings[0]


def test_prompt_without_room_is_dropped(tmp_path: Path, chat_tokenizer: ChatTokenizer) -> None:
    rows = [row("4"), row("4", question="1" * 60)]
    prompts, warnings = load(tmp_path / "rows.jsonl", *rows, max_length=64, max_new=8, chat=chat_tokenizer)
    assert [prompt.line for prompt in prompts] == [1]
    assert len(warnings) == 1
    assert warnings[0].startswith("line 2: dropped, the prompt's 79 tokens plus 8 to generate")


def test_invalid_row_fails_with_its_line(tmp_path: Path, chat_tokenizer: ChatTokenizer) -> None:
    with pytest.raises(JobFailure, match=r"^line 2: ") as caught:
        load(tmp_path / "rows.jsonl", row("4"), b'{"messages": []}', chat=chat_tokenizer)
    failure = caught.value
    assert (failure.exit_code, failure.code, failure.param) == (TrainerExit.bad_data, "invalid_file", "training_file")


def test_tools_that_the_model_cannot_see_are_reported(tmp_path: Path) -> None:
    call = {"id": "call00000", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "2+2="},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "call00000"},
        {"role": "assistant", "content": "4"},
    ]
    tools = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages, "tools": tools}))
    said: dict[str, list[str]] = {}
    for name in ("axolotl/qwen2_vl", "axolotl/falcon_h1", "trl/qwen2_5"):
        chat, warnings = published.tokenizer(name), said.setdefault(name, [])
        load_prompts(tmp_path / "rows.jsonl", chat, RowRules(turns="last", max_length=4096), warnings.append)
    blind, half, sees = said.values()
    assert [warning[:61] for warning in blind] == [
        "line 1: the model's chat template does not write `tools`, so ",
        "line 1: the model's chat template does not write tool calls, ",
    ]
    assert [warning[:61] for warning in half] == ["line 1: the model's chat template does not write tool calls, "]
    assert sees == []
