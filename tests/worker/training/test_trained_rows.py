"""What supervised jobs train of the files that people send: whole runs over each form of a row."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from app.core.spec.reports import Finished, Groups, TrainerExit
from tests.worker.training.runs import Job, messages, of_kind

USER: Final = {"role": "user", "content": "0+1="}
TOOLS: Final = [{"type": "function", "function": {"name": "tide", "description": "Tides", "parameters": {}}}]
WRITES_CALLS: Final = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<t>{{ m.reasoning_content }}</t>"
    "{% endif %}{% if m.content %}{{ m.content }}{% endif %}"
    '{% for call in m.tool_calls or [] %}[{"name": "{{ call.function.name }}", "arguments": '
    "{{ call.function.arguments | tojson }}}]{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def says(content: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def call(arguments: str) -> dict[str, Any]:
    return {"id": "call_0", "type": "function", "function": {"name": "tide", "arguments": arguments}}


CONVERSATION: Final = [USER, says("1"), {"role": "user", "content": "+1"}, says("2"), USER, says("3")]
CALLED: Final = '[{"name": "tide", "arguments": {"at": "Oban"}}]'
ROWS: Final[dict[str, tuple[dict[str, Any], list[str]]]] = {
    "single turn": ({"messages": [USER, says("1")]}, ["1"]),
    "all turns": ({"messages": CONVERSATION}, ["1", "2", "3"]),
    "weights": (
        {"messages": [USER, says("1", weight=0), USER, says("2", weight=1), USER, says("3", weight=0)]},
        ["2"],
    ),
    "two answers in a row": ({"messages": [USER, says("Wait."), says("1")]}, ["Wait.", "1"]),
    "tool call last": ({"messages": [USER, says(None, tool_calls=[call('{"at": "Oban"}')])], "tools": TOOLS}, [CALLED]),
    "tool call with text": (
        {"messages": [USER, says("Let me see. ", tool_calls=[call('{"at": "Oban"}')])], "tools": TOOLS},
        ["Let me see. " + CALLED],
    ),
    "two tool calls": (
        {"messages": [USER, says(None, tool_calls=[call('{"at": "Oban"}'), call("")])], "tools": TOOLS},
        [CALLED + '[{"name": "tide", "arguments": {}}]'],
    ),
    "tool history": (
        {
            "messages": [
                USER,
                says(None, tool_calls=[call('{"at": "Oban"}')]),
                {"role": "tool", "tool_call_id": "call_0", "content": "06:12"},
                says("At 06:12."),
            ],
            "tools": TOOLS,
        },
        [CALLED, "At 06:12."],
    ),
    "legacy function call": (
        {
            "messages": [
                USER,
                says(None, function_call={"name": "tide", "arguments": '{"at": "Oban"}'}),
                {"role": "function", "name": "tide", "content": "06:12"},
                says("At 06:12."),
            ],
            "functions": [TOOLS[0]["function"]],
        },
        [CALLED, "At 06:12."],
    ),
    "tools as text": ({"messages": [USER, says("1")], "tools": json.dumps(TOOLS)}, ["1"]),
    "thoughts": ({"messages": [USER, says("1", reasoning_content="I add.")]}, ["<t>I add.</t>1"]),
    "dump of a client library": (
        {"messages": [USER, says("1", refusal=None, annotations=[], audio=None, function_call=None, tool_calls=None)]},
        ["1"],
    ),
    "empty system message": ({"messages": [{"role": "system", "content": ""}, USER, says("1")]}, ["1"]),
    "prompt and completion": ({"prompt": "0+1=", "completion": "1"}, ["1"]),
    "lists of messages": ({"prompt": [USER], "completion": [says("1")]}, ["1"]),
}


@pytest.fixture(scope="module")
def tool_model(tmp_path_factory: pytest.TempPathFactory, chat_directory: Path) -> Path:
    """The tiny model with a template that writes tool calls and thoughts."""
    directory = tmp_path_factory.mktemp("tools") / "tiny"
    shutil.copytree(chat_directory, directory)
    (directory / "chat_template.jinja").write_text(WRITES_CALLS)
    return directory


def trained(job: Job, path: Path, **options: Any) -> tuple[list[str], list[str], int]:
    """Returns the trained texts with their ends cut off, the warnings, and the number of trained tokens."""
    code, reports = job.run(
        training=path, n_epochs=1, batch_size=1, max_length=400, validation=None, grader=None, **options
    )
    assert code is TrainerExit.succeeded
    [finished] = of_kind(reports, Finished)
    members = [member for step in of_kind(reports, Groups) for group in step.groups for member in group.members]
    warnings = [report.message for report in messages(reports) if report.level == "warn"]
    assert finished.trained_tokens == sum(member.tokens for member in members)
    return [member.text for member in members], warnings, finished.trained_tokens


def written(directory: Path, content: bytes) -> Path:
    path = directory / "training.jsonl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ROWS)
def test_supervised_trains_what_the_row_says(name: str, tool_model: Path, tmp_path: Path) -> None:
    row, answers = ROWS[name]
    path = written(tmp_path, json.dumps(row).encode() + b"\n")
    texts, warnings, tokens = trained(Job(tmp_path / "run", tool_model, "supervised"), path)
    assert len(texts) == len(answers)
    assert tokens == sum(len(answer) + 1 for answer in answers)  # a token per character, and the end
    assert warnings == []


def test_last_turn_only(chat_directory: Path, tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"messages": CONVERSATION}).encode())
    job = Job(tmp_path / "run", chat_directory, "supervised")
    assert trained(job, path, train_turns="last") == (["3"], [], 2)


def test_thoughts_may_be_context(tool_model: Path, tmp_path: Path) -> None:
    row = {"messages": [USER, says("1", thinking="I add.")]}
    path = written(tmp_path, json.dumps(row).encode())
    job = Job(tmp_path / "run", tool_model, "supervised")
    assert trained(job, path, train_reasoning=False) == (["1"], [], 2)


def test_byte_order_mark_and_crlf_are_read(chat_directory: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"messages": [USER, says(str(number))]}).encode() for number in range(4)]
    path = written(tmp_path, b"\xef\xbb\xbf" + b"\r\n".join(rows) + b"\r\n\r\n")
    texts, warnings, _ = trained(Job(tmp_path / "run", chat_directory, "supervised"), path)
    assert sorted(texts) == ["0", "1", "2", "3"]
    assert warnings == []


def test_unwritten_parts_are_reported(chat_directory: Path, tmp_path: Path) -> None:
    """The plain template writes neither calls nor thoughts."""
    rows = [
        {"messages": [USER, says("1", reasoning_content="I add.")]},
        {"messages": [USER, says(None, tool_calls=[call('{"at": "Oban"}')])], "tools": TOOLS},
    ]
    path = written(tmp_path, "\n".join(map(json.dumps, rows)).encode())
    texts, warnings, _ = trained(Job(tmp_path / "run", chat_directory, "supervised"), path)
    assert texts == ["1"]
    [warning] = warnings
    assert warning.startswith("1 of 2 rows of the training file is not used: 1 ")
    assert "For example, line 1: the model's chat template does not write thoughts" in warning
    assert "; line 2: dropped, the model's chat template does not write tool calls" in warning


def test_known_loss_of_rows_is_not_repeated(chat_directory: Path, tmp_path: Path) -> None:
    """The events of the job's creation have these numbers; others are reported."""
    rows = [{"messages": [USER, says("1")]}] + [{"messages": [USER, says("1" * 400)]}] * 5
    path = written(tmp_path, "\n".join(map(json.dumps, rows)).encode())
    lost: list[list[str]] = []
    for number, count in enumerate((5, 4)):
        known = {"rows": {"used": 1, "dropped": {"answer_too_long": count}}}
        job = Job(tmp_path / f"run-{number}", chat_directory, "supervised", trainer={"rows": known})
        lost.append(trained(job, path)[1])
    assert lost[0] == []
    [warning] = lost[1]
    assert warning.startswith("5 of 6 rows of the training file are not used: 5 with an answer that is too long")
    assert warning.endswith("; and 2 more")
