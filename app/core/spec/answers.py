"""An answer in its parts, as graders read it."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ParsedAnswer:
    """Text, thoughts and tool calls of one answer."""

    text: str
    """What the user reads, without thoughts, tool calls and end tokens."""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    """In OpenAI's shape; `arguments` is JSON text."""

    @classmethod
    def of(cls, message: dict[str, Any]) -> "ParsedAnswer":
        """Return the parts of a normalised assistant message."""
        calls = tuple(
            {
                "id": call.get("id") or f"call_{index}",
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                },
            }
            for index, call in enumerate(message.get("tool_calls") or ())
        )
        return cls(message.get("content") or "", message.get("reasoning_content") or "", calls)
