"""Questions to teachers and their answers, exchanged between runner and trainer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from app.core.spec.frozen import Frozen

MAX_BUDGET: Final = 10**12

TeacherModel = Annotated[str, Field(min_length=1, max_length=256)]


def _plain(url: str) -> str:
    """Remove the trailing slash, so that one server has one name."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("must not contain a user or password: store the key with `grouptune teachers set-key`")
    if parts.query or parts.fragment:
        raise ValueError("must end with its path (usually /v1), without ? or #")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must start with https:// and name a host, such as https://api.example.com/v1")
    return url.rstrip("/")


def storable(text: str) -> str:
    """Return model output in a form that Postgres accepts: NUL and half surrogate pairs are replaced."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


BaseUrl = Annotated[str, Field(max_length=2048), AfterValidator(_plain)]


class TeacherBudget(Frozen):
    """The limits on a job's use of its teacher, over all attempts. null means no limit."""

    tokens: Annotated[int, Field(ge=1, le=MAX_BUDGET)] | None = None
    """Input and output tokens of the teacher."""
    requests: Annotated[int, Field(ge=1, le=MAX_BUDGET)] | None = None
    """Requests, including retries."""


class Spent(Frozen):
    """A job's use of its teacher. Stored answers cost nothing."""

    requests: int = 0
    """Requests, including retries."""
    tokens: int = 0
    """Input and output tokens of the teacher."""


class Provenance(Frozen):
    """The origin of a teacher answer."""

    model: str | None
    """The model name that the teacher reports; in rows, the name that the row gives."""
    provider: str
    """Host of the server, `local` for a base model of this installation, `file` for an answer of the row."""
    answered_at: datetime | None = None
    cached: bool = False
    """The answer was stored before the job requested it: by an earlier attempt, or by another job of the project."""
    prompt_tokens: int | None = None
    """Its share of the request's input tokens; None for an answer of the row."""
    completion_tokens: int | None = None


class TeacherAnswer(Frozen):
    """One answer, stored under the key of its question."""

    key: str
    content: str
    finished: bool
    """False when the answer was cut off: it is stored, so that it is not paid for again, but not trained."""
    model: str
    provider: str
    answered_at: datetime
    prompt_tokens: int
    completion_tokens: int

    def provenance(self, *, cached: bool) -> Provenance:
        """The fields that the inspector shows."""
        return Provenance(
            model=self.model,
            provider=self.provider,
            answered_at=self.answered_at,
            cached=cached,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
        )


def as_sent(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's message in OpenAI's form: arguments of tool calls as JSON text, no thoughts of earlier answers."""
    sent = {name: value for name, value in message.items() if name != "reasoning_content"}
    if calls := message.get("tool_calls"):
        sent["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
            for call in calls
        ]
    return sent


def share(total: int, parts: int, number: int) -> int:
    """Return part `number` (from 0) when `total` is split into `parts` integers."""
    return (total + parts - 1 - number) // parts


def question(
    teacher: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> str:
    """Return the content address of a question: the teacher, its sampling settings, and the whole prompt."""
    whole = {"teacher": teacher, "messages": messages, "tools": tools}
    text = json.dumps(whole, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def answer_key(question: str, number: int) -> str:
    """Return the content address of answer `number` (from 0) to a question."""
    return hashlib.sha256(f"{question}/{number}".encode()).hexdigest()
