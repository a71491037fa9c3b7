"""What is asked of a teacher and what it answers, as runner and trainer tell each other."""

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
    """Without the slash at its end, so that one server has one name."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("must not hold a user or password: store the key with `grouptune teachers set-key`")
    if parts.query or parts.fragment:
        raise ValueError("must end in its path (usually /v1), without ? or #")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must begin with https:// and name a host, such as https://api.example.com/v1")
    return url.rstrip("/")


def storable(text: str) -> str:
    """Whatever a model writes, as Postgres takes it: NUL and half surrogate pairs replaced."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


BaseUrl = Annotated[str, Field(max_length=2048), AfterValidator(_plain)]


class TeacherBudget(Frozen):
    """What a job may spend on its teacher, over all its attempts. What is null has no limit."""

    tokens: Annotated[int, Field(ge=1, le=MAX_BUDGET)] | None = None
    """Tokens that the teacher reads and writes."""
    requests: Annotated[int, Field(ge=1, le=MAX_BUDGET)] | None = None
    """Requests, repeated ones included."""


class Spent(Frozen):
    """What a job has spent on its teacher; answers that were known cost nothing."""

    requests: int = 0
    tokens: int = 0


class Provenance(Frozen):
    """Where a teacher's answer comes from."""

    model: str | None
    """As the one who answered calls it; in rows whatever they say."""
    provider: str
    """Host of the server, `local` for a base model of this installation, `file` for what the row brought."""
    answered_at: datetime | None = None
    cached: bool = False
    """It was there before the job asked: from an earlier attempt, or another job of the project."""
    prompt_tokens: int | None = None
    """Its share of what the request read; None for what the row brought."""
    completion_tokens: int | None = None


class TeacherAnswer(Frozen):
    """One answer under the key of its question."""

    key: str
    content: str
    finished: bool
    """False when it was cut off: it is kept, so that nobody pays for it again, and not trained on."""
    model: str
    provider: str
    answered_at: datetime
    prompt_tokens: int
    completion_tokens: int

    def provenance(self, *, cached: bool) -> Provenance:
        """What the inspector shows of it."""
        return Provenance(
            model=self.model,
            provider=self.provider,
            answered_at=self.answered_at,
            cached=cached,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
        )


def share(total: int, parts: int, number: int) -> int:
    """Part `number` (from 0) of `parts` numbers that add up to `total`."""
    return (total + parts - 1 - number) // parts


def question(
    teacher: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> str:
    """Content address of a question to a teacher: who is asked, how it samples, and the whole prompt."""
    whole = {"teacher": teacher, "messages": messages, "tools": tools}
    text = json.dumps(whole, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def answer_key(question: str, number: int) -> str:
    """Content address of the answer `number` (from 0) to a question."""
    return hashlib.sha256(f"{question}/{number}".encode()).hexdigest()
