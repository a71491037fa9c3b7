"""What an engine answers, in the format of vLLM's OpenAI server, and how it is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

_TOKEN_ID: Final = "token_id:"  # noqa: S105 - a prefix of tokens


@dataclass(frozen=True)
class TokenLogprob:
    """Log p of one token of a completion, at temperature 1, and of the most probable tokens in its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """Pairs of token id and log p, as many as were requested; the engine may add the chosen token."""


@dataclass(frozen=True)
class ChoiceDelta:
    """New text and tokens of one completion; in an `EngineCompletion` the whole completion."""

    index: int
    text: str
    """Without the stop string or end token that ended the completion."""
    token_ids: tuple[int, ...]
    """Includes the end token."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each of `token_ids`, if requested."""
    finish_reason: str | None = None
    """`stop` or `length` once the completion has ended."""
    stop_reason: str | int | None = None
    """The stop string or the id of the stop token; None for the engine's own end token and for `length`."""
    prompt_logprobs: tuple[Mapping[int, float] | None, ...] | None = None
    """For each token of the prompt log p by token id, the token's own included, if requested; None for the first."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a request; `completion_tokens` is the sum over its completions."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class EngineChunk:
    """A part of a streamed answer. The last chunk has the usage and no choices."""

    choices: tuple[ChoiceDelta, ...]
    usage: Usage | None


@dataclass(frozen=True)
class EngineCompletion:
    """A whole answer: its completions by index."""

    choices: tuple[ChoiceDelta, ...]
    usage: Usage


@dataclass(frozen=True)
class ListedModel:
    """A base model or a loaded adapter on an engine."""

    id: str
    root: str | None
    """The directory or hub id that it was loaded from."""
    parent: str | None
    """The base model of an adapter; None for a base model."""
    max_length: int | None
    """Tokens of prompt and completion together; None if the engine does not state them."""


def choices_of(body: Mapping[str, Any], copies: int) -> Iterator[ChoiceDelta]:
    """Yield the completions in a response or a chunk, the only one `copies` times.

    Raises `LookupError`, `TypeError`, `ValueError` or `AttributeError` for another format, and so does `usage_of`.
    """
    for choice in body["choices"]:
        found = _choice(choice)
        yield found
        yield from (replace(found, index=index) for index in range(1, copies))


def _choice(choice: Mapping[str, Any]) -> ChoiceDelta:
    return ChoiceDelta(
        index=choice["index"],
        text=choice["text"],
        token_ids=tuple(choice["token_ids"] or ()),
        logprobs=_logprobs(choice.get("logprobs")),
        finish_reason=choice.get("finish_reason"),
        stop_reason=choice.get("stop_reason"),
        prompt_logprobs=_prompt_logprobs(choice.get("prompt_logprobs")),
    )


def _prompt_logprobs(entries: Sequence[Any] | None) -> tuple[Mapping[int, float] | None, ...] | None:
    if entries is None:
        return None
    return tuple(
        None if entry is None else {int(token): float(each["logprob"]) for token, each in entry.items()}
        for entry in entries
    )


def _logprobs(logprobs: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...] | None:
    if logprobs is None:
        return None
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    return tuple(
        TokenLogprob(_token_id(token), logprob, tuple((_token_id(name), value) for name, value in (top or {}).items()))
        for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    )


def _token_id(token: str) -> int:
    return int(token.removeprefix(_TOKEN_ID))


def usage_of(usage: Mapping[str, Any] | None, copies: int) -> Usage | None:
    """Return the usage of a request whose completion counts `copies` times; None for a chunk without it."""
    return None if usage is None else Usage(usage["prompt_tokens"], usage["completion_tokens"] * copies)
