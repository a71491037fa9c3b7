"""Client for one engine: the part of vLLM's OpenAI server that the gateway uses, which the embedded engine also speaks.

Knows one server and no retries; `engines` chooses servers and repeats requests. Ending a request, for example because
its task is cancelled, closes its connection at once, and the engine stops decoding.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from app.core.inference.connections import CancellableTransport
from app.core.inference.errors import (
    AdapterRefused,
    EngineBusy,
    EngineRefused,
    EngineTimedOut,
    EngineUnavailable,
    InvalidEngineResponse,
    UnknownToEngine,
)
from app.core.retry import retry_after_seconds

MAX_CONNECTIONS: Final = 1024
"""Requests to one engine at a time; the engine's own queue is shorter."""
_LOAD: Final = "/v1/load_lora_adapter"
_UNLOAD: Final = "/v1/unload_lora_adapter"
_COMPLETE: Final = "/v1/completions"
_STRUCTURED: Final = "structured_outputs"
_DONE: Final = b"[DONE]"
_TOKEN_ID: Final = "token_id:"  # noqa: S105 - a prefix of tokens
_ALREADY_LOADED: Final = "already been loaded"
_IDLE_SECONDS: Final = 2.0
"""Less than the five seconds after which uvicorn, vLLM's server, closes an idle connection."""


@dataclass(frozen=True)
class TimeLimits:
    """How long to wait for an engine, in seconds."""

    connect: float = 5.0
    first_token: float = 600.0
    """Long: the request may wait in the engine's queue, and the engine may have to load its model first."""
    next_token: float = 120.0
    load: float = 300.0
    """For an adapter; the embedded engine loads its base model with the first one."""
    poll: float = 10.0
    """For the list of models."""


LIMITS: Final = TimeLimits()


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


class EngineClient:
    """Connection to one engine. Its methods raise `EngineUnavailable` if it is down, `EngineRefused` for a 400."""

    def __init__(self, url: str, api_key: str | None = None, limits: TimeLimits = LIMITS) -> None:
        """`url` is the server's root, without `/v1`."""
        self.url = url
        self._limits = limits
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            # `asyncio.timeout` limits the waits for tokens: httpx has only one limit for all reads.
            timeout=httpx.Timeout(None, connect=limits.connect),
            # No proxy from the environment: the operator named this server, which a proxy may not reach.
            transport=CancellableTransport(MAX_CONNECTIONS, _IDLE_SECONDS),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def models(self) -> list[ListedModel]:
        """Return the base models and the loaded adapters."""
        with self._translated():
            async with asyncio.timeout(self._limits.poll):
                response = await self._http.get("/v1/models")
        body = self._checked(response)
        with self._parsing():
            return [
                ListedModel(card["id"], card.get("root"), card.get("parent"), card.get("max_model_len"))
                for card in body["data"]
            ]

    async def load(self, name: str, path: str, base_model: str) -> None:
        """Load the adapter in directory `path` as model `name`; the engine reads the files itself.

        An adapter of this name that is loaded already counts as success. Raises `AdapterRefused` if the engine cannot
        serve the adapter, and `UnknownToEngine` if it cannot see the files.
        """
        body = {"lora_name": name, "lora_path": path, "base_model_name": base_model}
        with self._translated():
            async with asyncio.timeout(self._limits.load):
                response = await self._http.post(_LOAD, json=body)
        if response.status_code == httpx.codes.NOT_FOUND:
            raise UnknownToEngine(self._about(f"it cannot load {path}: {_message(response)}"))
        # vLLM answers 500 for an adapter that it cannot load.
        if response.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.INTERNAL_SERVER_ERROR):
            reason = _message(response)
            if _ALREADY_LOADED in reason:
                return
            raise AdapterRefused(f"The engine cannot serve this adapter: {reason}", param="model")
        self._check(response)

    async def unload(self, name: str) -> None:
        """Unload an adapter, if it is loaded."""
        with self._translated():
            async with asyncio.timeout(self._limits.poll):
                response = await self._http.post(_UNLOAD, json={"lora_name": name})
        if response.status_code != httpx.codes.NOT_FOUND:
            self._check(response)

    async def complete(self, body: Mapping[str, Any]) -> EngineCompletion:
        """Return the completions of one prompt. Raises `UnknownToEngine` and `EngineBusy` too."""
        single, copies = _without_copies(body)
        answer = await self._complete(single)
        with self._parsing():
            usage = _usage(answer["usage"], copies)
            choices = sorted(_choices(answer, copies), key=lambda choice: choice.index)
        if usage is None:
            raise InvalidEngineResponse(self._about("its answer has no usage"))
        return EngineCompletion(tuple(choices), usage)

    async def prompt_logprobs(self, model: str, ids: Sequence[int]) -> list[float]:
        """Return log p of each token of `ids` after the first one. Raises as `complete`."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        answer = await self._complete(body)
        with self._parsing():
            entries = answer["choices"][0]["prompt_logprobs"]
            return [float(entry[str(token)]["logprob"]) for entry, token in zip(entries[1:], ids[1:], strict=True)]

    @asynccontextmanager
    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[EngineChunk]]:
        """Open a streamed answer; the connection is closed at the end of the block, complete or not.

        The block starts with the engine's response, before its first token. Raises as `complete`; the iterator also
        raises `EngineUnavailable` if the engine ends the stream early.
        """
        single, copies = _without_copies(body)
        request = self._http.build_request(
            "POST", _COMPLETE, json={**single, "stream": True, "stream_options": {"include_usage": True}}
        )
        with self._translated():
            async with asyncio.timeout(self._limits.first_token):
                response = await self._http.send(request, stream=True)
        try:
            if not response.is_success:
                with self._translated():
                    await response.aread()
                self._check(response, body)
            yield self._chunks(response, copies)
        finally:
            await response.aclose()

    async def _chunks(self, response: httpx.Response, copies: int) -> AsyncIterator[EngineChunk]:
        async for data in _events(self._timely(response.aiter_raw())):
            if data == _DONE:
                return
            with self._parsing():
                body = json.loads(data)
            if "error" in body:
                raise self._streamed_error(body["error"])
            with self._parsing():
                chunk = EngineChunk(tuple(_choices(body, copies)), _usage(body.get("usage"), copies))
            yield chunk
        raise EngineUnavailable(self._about("it ended the answer early"))

    async def _timely(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        limit = self._limits.first_token
        while True:
            with self._translated():
                async with asyncio.timeout(limit):
                    part = await anext(parts, None)
            if part is None:
                return
            yield part
            limit = self._limits.next_token

    async def _complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._translated():
            async with asyncio.timeout(self._limits.first_token):
                response = await self._http.post(_COMPLETE, json={**body, "stream": False, "stream_options": None})
        self._check(response, body)
        return self._checked(response)

    def _about(self, problem: str) -> str:
        return f"The engine is unavailable: {problem}. Try again in a few seconds."

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.PoolTimeout as error:
            raise EngineBusy from error
        except (httpx.RequestError, httpx.StreamError) as error:
            raise EngineUnavailable(self._about(f"{type(error).__name__} {error}".strip())) from error
        except TimeoutError as error:
            raise EngineTimedOut from error

    @contextmanager
    def _parsing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            problem = f"its response is not in vLLM's format ({type(error).__name__}: {error})"
            raise InvalidEngineResponse(self._about(problem)) from error

    def _checked(self, response: httpx.Response) -> dict[str, Any]:
        """Return the JSON of a successful response. Raises the error that the status stands for."""
        self._check(response)
        with self._parsing():
            body: dict[str, Any] = response.json()
            return body

    def _check(self, response: httpx.Response, request: Mapping[str, Any] | None = None) -> None:
        if not response.is_success:
            error = self._error(response.status_code, _error(response), retry_after_seconds(response.headers))
            if isinstance(error, EngineRefused) and error.param is None and (request or {}).get(_STRUCTURED):
                # vLLM does not name the field of a schema that it cannot compile; the gateway has checked the others.
                error = EngineRefused(error.message, param=_STRUCTURED, code="invalid_structured_output")
            raise error

    def _streamed_error(self, error: Mapping[str, Any]) -> Exception:
        code = error.get("code")
        return self._error(code if isinstance(code, int) else httpx.codes.SERVICE_UNAVAILABLE, error, 0.0)

    def _error(self, status: int, error: Mapping[str, Any], wait_seconds: float) -> Exception:
        message = str(error.get("message"))
        if status == httpx.codes.NOT_FOUND:
            return UnknownToEngine()
        if status == httpx.codes.TOO_MANY_REQUESTS:
            busy = EngineBusy()
            busy.retry_after_seconds = wait_seconds or busy.retry_after_seconds
            return busy
        if status in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY, httpx.codes.REQUEST_ENTITY_TOO_LARGE):
            code = error.get("code")
            return EngineRefused(message, param=error.get("param"), code=code if isinstance(code, str) else None)
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            message = "it rejects the key in GROUPTUNE_SERVE_API_KEY"
        away = EngineUnavailable(self._about(f"it answered {status}, {message}"))
        away.retry_after_seconds = wait_seconds or away.retry_after_seconds
        return away


async def _events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _without_copies(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """Return the request for one of several greedy completions, and how many there are: they are all the same.

    vLLM refuses to compute them, and OpenAI does not.
    """
    if body["temperature"] > 0 or body["n"] == 1:
        return body, 1
    return {**body, "n": 1}, body["n"]


def _choices(body: Mapping[str, Any], copies: int) -> Iterator[ChoiceDelta]:
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


def _usage(usage: Mapping[str, Any] | None, copies: int) -> Usage | None:
    return None if usage is None else Usage(usage["prompt_tokens"], usage["completion_tokens"] * copies)


def _error(response: httpx.Response) -> Mapping[str, Any]:
    """Return the error of a response: in OpenAI's envelope, in FastAPI's, or its text."""
    try:
        body = response.json()
    except ValueError:
        return {"message": response.text[:500]}
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return {"message": str(error)}
    return error if "message" in error else {"message": str(error.get("detail", error))}


def _message(response: httpx.Response) -> str:
    return str(_error(response).get("message"))
