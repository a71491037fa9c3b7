"""A request and its sequences, as the HTTP server and the engine's thread exchange them. No torch."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tokenizers import Tokenizer

from worker.serving.errors import RequestError, invalid
from worker.serving.text_stream import TextStream
from worker.serving.wire import CompletionBody

_DEAD_END: Final = "it allows no text, for example because the schema refers to itself only"


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probability of a token, in nats, with the most probable alternatives in descending order."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()
    rank: int = 0
    """1 for the most probable token; 0 where it is not computed."""


@dataclass(frozen=True)
class Chunk:
    """New tokens and text of one sequence."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: TokenLogprobs | None = None
    """Of the last token."""
    finish_reason: str | None = None
    """"stop" or "length" in the last chunk of a sequence."""
    stop_reason: str | int | None = None
    """The stop string or the stop token."""


Event = Chunk | RequestError
"""An error ends all sequences of a request."""


@dataclass(eq=False)
class Request:
    """One request: `body.n` sequences that share a prompt. Compared by identity."""

    body: CompletionBody
    base: str
    """Name of the base model."""
    tokenizer: Tokenizer
    listener: Callable[[Event], None]
    """Called in the event loop."""
    adapter: Any = None
    """The adapter, or None for the base model itself."""
    matcher: Any = None
    """llguidance's matcher at its start, copied for each sequence; None without a constraint."""
    is_aborted: bool = False
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    """One for each prompt token, None for the first one; filled before the first chunk if the body asks for it."""


class Sequence:
    """One completion of a request while it is being decoded."""

    def __init__(self, request: Request, index: int) -> None:
        body = request.body
        self.request = request
        self.index = index
        self.last_token = 0
        self.length = len(body.prompt)
        """Tokens whose keys and values are stored."""
        self.generated = 0
        self.counts: Counter[int] | None = Counter() if body.presence_penalty or body.frequency_penalty else None
        """How often each token was generated, for the penalties."""
        # Numbers of its own for each sequence, so that a seed gives the same text whatever else is in the batch.
        seed = None if body.seed is None else f"{body.seed}/{index}"
        self.random = random.Random(seed)  # noqa: S311 - sampling is not cryptography
        self.matcher = None if request.matcher is None else request.matcher.deep_copy()
        self._text = TextStream(request.tokenizer, body.prompt, body.stop)

    @property
    def longest(self) -> int:
        """The tokens that the sequence can have, its prompt included."""
        return len(self.request.body.prompt) + self.request.body.max_tokens

    def accept(self, token: int, logprobs: TokenLogprobs | None) -> Chunk:
        """Append a sampled token; returns its chunk. Raises `RequestError` if the constraint fails."""
        body = self.request.body
        self.last_token = token
        self.generated += 1
        if self.counts is not None:
            self.counts[token] += 1
        self._check_constraint()
        if token in body.stop_token_ids:
            return Chunk(self.index, self._finish(), (token,), logprobs, "stop", self._text.stopped_by or token)
        if self.matcher is not None:
            self.matcher.consume_token(token)
            self._check_constraint()
        text = self._text.push(token)
        is_full = self.generated == body.max_tokens
        if self._text.stopped_by is None and (is_full or self._is_complete):
            text += self._finish()
        if self._text.stopped_by is not None:
            return Chunk(self.index, text, (token,), logprobs, "stop", self._text.stopped_by)
        reason = "stop" if self._is_complete else "length" if is_full else None
        return Chunk(self.index, text, (token,), logprobs, reason)

    @property
    def _is_complete(self) -> bool:
        """Whether the constraint allows no further token."""
        return self.matcher is not None and bool(self.matcher.is_stopped())

    def _check_constraint(self) -> None:
        if self.matcher is not None and self.matcher.is_error():  # it has become too complex
            reason, *_ = self.matcher.get_error().splitlines()  # the others are the state of the parser
            reason = _DEAD_END if reason == "NoExtensionBias" else reason
            raise invalid(f"The constraint failed: {reason}.", "structured_outputs", "invalid_structured_output")

    def _finish(self) -> str:
        return self._text.finish()
