"""Bodies of `/v1/files/{id}/rows`."""

import json
from typing import Any, Literal

from pydantic import Field

from app.core.spec.described import Described
from app.core.spec.rows import Row, answer_text


class KnownAnswer(Described):
    """An answer that the row contains."""

    source: Literal["expert", "teacher", "preferred", "non_preferred"]
    """Where the answer comes from: the demonstration, a teacher, or the preferred or non-preferred answer of a pair."""
    text: str = Field(description="Its content, then its tool calls as JSON.")
    model: str | None = Field(default=None, description="The teacher model, if the row names it.")


class FileRow(Described):
    """One row as a job reads it, whatever form it is written in."""

    line: int = Field(description="Line of the file, from 1; for a Parquet file, the row.")
    messages: list[dict[str, Any]] = Field(
        description="What the model reads before it answers: messages for `POST /v1/chat/completions`."
    )
    tools: list[dict[str, Any]]
    """Tool definitions of the row, for `tools` of a chat completion."""
    item: dict[str, Any] = Field(description="What graders read as `item`.")
    answers: list[KnownAnswer]
    """The answers that the row contains."""

    @classmethod
    def of(cls, line: int, row: Row) -> "FileRow":
        """Return the wire form of a parsed row."""
        return cls(
            line=line,
            messages=[_sendable(message) for message in row.prompt_messages],
            tools=list(row.tools),
            item=row.item,
            answers=_answers(row),
        )


class FileRows(Described):
    """Rows of a file."""

    object: Literal["file.rows"] = "file.rows"
    file_id: str
    """The file."""
    rows: int = Field(description="Number of rows in the file.")
    data: list[FileRow]
    """The rows of this page."""
    has_more: bool = Field(description="If true, send the last `line` as `after` to get the next rows.")


def _sendable(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as OpenAI's API takes it: the arguments of tool calls are JSON text."""
    if "tool_calls" not in message:
        return message
    return message | {"tool_calls": [_call(call, index) for index, call in enumerate(message["tool_calls"])]}


def _call(call: dict[str, Any], index: int) -> dict[str, Any]:
    function = call["function"]
    written = function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}
    return {"id": f"call_{index}", "type": "function"} | call | {"function": written}


def _answers(row: Row) -> list[KnownAnswer]:
    answers = [] if row.expert is None else [KnownAnswer(source="expert", text=row.expert)]
    answers += [KnownAnswer(source="teacher", text=answer.content, model=answer.model) for answer in row.teacher]
    if row.preference is not None:
        preferred, other = map(answer_text, row.preference)
        answers.append(KnownAnswer(source="preferred", text=preferred))
        answers.append(KnownAnswer(source="non_preferred", text=other))
    return answers
