"""Asks a chat completion server for several answers to a prompt. Servers differ; what one refuses is not sent again.

Some take no `n`, some give fewer answers than asked for, newer models want `max_completion_tokens`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from app.core.egress.json_client import ChatServer, NoUsableResponse
from app.core.spec.job import Sampling
from app.core.spec.teacher_answers import TeacherAnswer, share, storable
from worker.training.types import Prompt

MAX_NAME: Final = 256
_CANNOT: Final = frozenset({400, 422})
"""Statuses with which servers refuse a field that they do not know."""


@dataclass(frozen=True)
class AnswerBatch:
    """What a request has brought."""

    answers: tuple[TeacherAnswer, ...]
    tokens: int
    problem: str | None = None
    """What is wrong with answers that are not among them; they have cost their tokens all the same."""


class TeacherServer:
    """One teacher, for any number of threads."""

    def __init__(self, chat: ChatServer, model: str, sampling: Sampling, count_tokens: Callable[[str], int]) -> None:
        """`count_tokens` is for servers that do not say what an answer has cost."""
        self._chat = chat
        self._model = model
        self._sampling = sampling
        self._count_tokens = count_tokens
        self._limit = "max_tokens"
        self._takes_n = True

    def ask(self, prompt: Prompt, keys: Sequence[str], before_each: Callable[[], None]) -> AnswerBatch:
        """At most one answer a key, for the first of them. Raises `NoUsableResponse`, and what `before_each` raises."""
        body = self._complete(prompt, len(keys), before_each)
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices:
            raise NoUsableResponse("the teacher's answer is no chat completion with choices")
        texts, problem = _texts(choices[: len(keys)])
        usage = body.get("usage")
        told = usage if isinstance(usage, dict) else {}
        read = _count(told.get("prompt_tokens"), len(prompt.ids))
        written = _count(told.get("completion_tokens"), sum(self._count_tokens(text) for text, _ in texts))
        now, model = datetime.now(UTC), body.get("model")
        answers = tuple(
            TeacherAnswer(
                key=key,
                content=text,
                finished=finished,
                model=storable(model[:MAX_NAME]) if isinstance(model, str) and model else self._model,
                provider=self._chat.host,
                answered_at=now,
                prompt_tokens=share(read, len(texts), number),
                completion_tokens=share(written, len(texts), number),
            )
            for number, (key, (text, finished)) in enumerate(zip(keys, texts, strict=False))
        )
        return AnswerBatch(answers, read + written, problem)

    def _complete(self, prompt: Prompt, count: int, before_each: Callable[[], None]) -> dict[str, Any]:
        while True:
            sent = self._request(prompt, count)
            try:
                return self._chat.complete(sent, before_each)
            except NoUsableResponse as error:
                if error.status not in _CANNOT or not self._can_do_without(sent, str(error)):
                    raise

    def _can_do_without(self, sent: dict[str, Any], refusal: str) -> bool:
        """Whether another form of the request may be taken; from now on that one is sent."""
        if "max_tokens" in sent and "max_completion_tokens" in refusal:
            self._limit = "max_completion_tokens"
            return True
        if "n" in sent:
            self._takes_n = False
            return True
        return False

    def _request(self, prompt: Prompt, count: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(prompt.messages),
            "temperature": self._sampling.temperature,
            self._limit: self._sampling.max_tokens,
        }
        if prompt.tools:
            body["tools"] = list(prompt.tools)
        if self._sampling.top_p < 1:
            body["top_p"] = self._sampling.top_p
        if count > 1 and self._takes_n:
            body["n"] = count
        return body


def _texts(choices: Sequence[Any]) -> tuple[list[tuple[str, bool]], str | None]:
    """The answers that are text, and what is wrong with another one."""
    found, problem = [], None
    for choice in choices:
        try:
            found.append(_content(choice))
        except NoUsableResponse as error:
            problem = str(error)
    return found, problem


def _content(choice: Any) -> tuple[str, bool]:
    """An answer and whether it came to its end by itself. Raises `NoUsableResponse` for what is no text."""
    message = choice.get("message") if isinstance(choice, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str) or not text.strip():
        refusal = message.get("refusal") if isinstance(message, dict) else None
        raise NoUsableResponse(
            f"the teacher refused: {refusal!s:.200}" if refusal else "the teacher's answer has no text"
        )
    return storable(text), choice.get("finish_reason") not in (
        "length",
        "content_filter",
        "tool_calls",
        "function_call",
    )


def _count(told: Any, otherwise: int) -> int:
    """Tokens as the server says; negative, absurd and missing numbers are none."""
    usable = isinstance(told, int) and not isinstance(told, bool) and 0 <= told < 2**31
    return told if usable else otherwise
