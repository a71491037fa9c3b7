"""Requests several answers to a prompt from a chat completion server, and adapts to what the server supports.

Some servers reject `n`, some return fewer answers than requested, and newer models require `max_completion_tokens`. A
field that the server rejected is not sent again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from app.core.egress.json_client import ChatServer, NoUsableResponse
from app.core.spec.job import Sampling
from app.core.spec.teacher_answers import TeacherAnswer, as_sent, share, storable
from worker.training.types import Prompt

MAX_NAME: Final = 256
_FIELD_REJECTED: Final = frozenset({400, 422})
"""Statuses with which servers reject a field that they do not support."""


@dataclass(frozen=True)
class AnswerBatch:
    """The answers of one request."""

    answers: tuple[TeacherAnswer, ...]
    tokens: int
    problem: str | None = None
    """Why some choices are not in `answers`; their tokens count as used all the same."""


class TeacherServer:
    """One teacher model on a server. Thread-safe."""

    def __init__(self, chat: ChatServer, model: str, sampling: Sampling, count_tokens: Callable[[str], int]) -> None:
        """`count_tokens` is for servers that report no token usage."""
        self._chat = chat
        self._model = model
        self._sampling = sampling
        self._count_tokens = count_tokens
        self._limit = "max_tokens"
        self._takes_n = True

    def request_answers(self, prompt: Prompt, keys: Sequence[str], before_each: Callable[[], None]) -> AnswerBatch:
        """Returns at most one answer for each of `keys`, in order; the server may return fewer.

        Calls `before_each` before every request. Raises `NoUsableResponse`, and whatever `before_each` raises.
        """
        body = self._complete(prompt, len(keys), before_each)
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices:
            raise NoUsableResponse("the teacher's response is not a chat completion with choices")
        texts, problem = _texts(choices[: len(keys)])
        usage = body.get("usage")
        reported = usage if isinstance(usage, dict) else {}
        prompt_tokens = _count(reported.get("prompt_tokens"), len(prompt.ids))
        completion_tokens = _count(
            reported.get("completion_tokens"), sum(self._count_tokens(text) for text, _ in texts)
        )
        now, model = datetime.now(UTC), body.get("model")
        answers = tuple(
            TeacherAnswer(
                key=key,
                content=text,
                finished=finished,
                model=storable(model[:MAX_NAME]) if isinstance(model, str) and model else self._model,
                provider=self._chat.host,
                answered_at=now,
                prompt_tokens=share(prompt_tokens, len(texts), number),
                completion_tokens=share(completion_tokens, len(texts), number),
            )
            for number, (key, (text, finished)) in enumerate(zip(keys, texts, strict=False))
        )
        return AnswerBatch(answers, prompt_tokens + completion_tokens, problem)

    def _complete(self, prompt: Prompt, count: int, before_each: Callable[[], None]) -> dict[str, Any]:
        while True:
            sent = self._request(prompt, count)
            try:
                return self._chat.complete(sent, before_each)
            except NoUsableResponse as error:
                if error.status not in _FIELD_REJECTED or not self._drop_rejected_field(sent, str(error)):
                    raise

    def _drop_rejected_field(self, sent: dict[str, Any], refusal: str) -> bool:
        """Changes the form of all further requests. Returns False if no other form is left to try."""
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
            "messages": [as_sent(message) for message in prompt.messages],
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
    """Returns text and completeness of each usable choice, and the problem of an unusable one, if any."""
    texts, problem = [], None
    for choice in choices:
        try:
            texts.append(_content(choice))
        except NoUsableResponse as error:
            problem = str(error)
    return texts, problem


def _content(choice: Any) -> tuple[str, bool]:
    """Returns the text of a choice and whether it is complete. Raises `NoUsableResponse` if the choice has no text."""
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


def _count(reported: Any, default: int) -> int:
    """Returns the token count that the server reports, or `default` if it is missing, negative or absurdly large."""
    is_valid = isinstance(reported, int) and not isinstance(reported, bool) and 0 <= reported < 2**31
    return reported if is_valid else default
