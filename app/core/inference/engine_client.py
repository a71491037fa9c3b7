"""Client for one engine: the part of vLLM's OpenAI server that the gateway uses, which the embedded engine also speaks.

Knows one server and no retries; `engines` chooses servers and repeats requests. Ending a request, for example because
its task is cancelled, closes its connection at once, and the engine stops decoding.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from app.core.inference.engine_answers import (
    EngineChunk,
    EngineCompletion,
    ListedModel,
    choices_of,
    usage_of,
)
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

MAX_RUNNING: Final = 1024
"""Requests to one engine at a time; the engine's own queue is shorter."""
_LOAD: Final = "/v1/load_lora_adapter"
_UNLOAD: Final = "/v1/unload_lora_adapter"
_COMPLETE: Final = "/v1/completions"
_STRUCTURED: Final = "structured_outputs"
_DONE: Final = b"[DONE]"
_ALREADY_LOADED: Final = "already been loaded"
_WRONG_KEY: Final = (
    "The inference engine rejects the key of this server. Ask the operator to correct GROUPTUNE_SERVE_API_KEY."
)
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
class _Response:
    """A response whose body has been read."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class EngineClient:
    """Connection to one engine. Its methods raise `EngineUnavailable` if it is down, `EngineRefused` for a 400."""

    def __init__(
        self, url: str, api_key: str | None = None, limits: TimeLimits = LIMITS, *, max_running: int = MAX_RUNNING
    ) -> None:
        """`url` is the server's root, without `/v1`. More than `max_running` requests at a time are refused."""
        self.url = url
        self._limits = limits
        self._max_running = max_running
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._opened: aiohttp.ClientSession | None = None
        self._running = 0

    @property
    def _http(self) -> aiohttp.ClientSession:
        """The connections, which belong to the event loop of the first request."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                headers=self._headers,
                # `asyncio.timeout` limits the waits for tokens: aiohttp has only one limit for all reads.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                # No proxy from the environment: the operator named this server, which a proxy may not reach.
                trust_env=False,
            )
        return self._opened

    async def close(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            await self._opened.close()

    async def models(self) -> list[ListedModel]:
        """Return the base models and the loaded adapters."""
        body = self._checked(await self._request("GET", "/v1/models", None, self._limits.poll))
        with self._parsing():
            return [
                ListedModel(card["id"], card.get("root"), card.get("parent"), card.get("max_model_len"))
                for card in body["data"]
            ]

    async def load(self, name: str, path: str, base_model: str) -> None:
        """Load the adapter in directory `path` as model `name`; the engine reads the files itself.

        `is_3d_lora_weight` says that adapters of experts are stacked, as PEFT stores them; vLLM cannot see it.

        An adapter of this name that is loaded already counts as success. Raises `AdapterRefused` if the engine cannot
        serve the adapter, and `UnknownToEngine` if it cannot see the files.
        """
        body = {"lora_name": name, "lora_path": path, "base_model_name": base_model, "is_3d_lora_weight": True}
        response = await self._request("POST", _LOAD, body, self._limits.load)
        if response.status == HTTPStatus.NOT_FOUND:
            raise UnknownToEngine(self._about(f"it cannot load {path}: {_message(response)}"))
        # vLLM answers 500 for an adapter that it cannot load.
        if response.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR):
            reason = _message(response).replace(path, name)  # clients read it
            if _ALREADY_LOADED in reason:
                return
            raise AdapterRefused(f"The engine cannot serve this adapter: {reason}", param="model")
        self._check(response)

    async def unload(self, name: str) -> None:
        """Unload an adapter, if it is loaded."""
        response = await self._request("POST", _UNLOAD, {"lora_name": name}, self._limits.poll)
        if response.status != HTTPStatus.NOT_FOUND:
            self._check(response)

    async def complete(self, body: Mapping[str, Any]) -> EngineCompletion:
        """Return the completions of one prompt. Raises `UnknownToEngine` and `EngineBusy` too."""
        single, copies = _without_copies(body)
        answer = await self._complete(single)
        with self._parsing():
            usage = usage_of(answer["usage"], copies)
            choices = sorted(choices_of(answer, copies), key=lambda choice: choice.index)
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
        sent = {**single, "stream": True, "stream_options": {"include_usage": True}}
        async with self._sent("POST", _COMPLETE, sent, self._limits.first_token) as response:
            if not response.ok:
                with self._translated():
                    self._check(await _read(response), body)
            yield self._chunks(response.content.iter_any(), copies)

    async def _chunks(self, parts: AsyncIterator[bytes], copies: int) -> AsyncIterator[EngineChunk]:
        async for data in _events(self._timely(parts)):
            if data == _DONE:
                return
            with self._parsing():
                body = json.loads(data)
            if "error" in body:
                raise self._streamed_error(body["error"])
            with self._parsing():
                chunk = EngineChunk(tuple(choices_of(body, copies)), usage_of(body.get("usage"), copies))
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
        sent = {**body, "stream": False, "stream_options": None}
        response = await self._request("POST", _COMPLETE, sent, self._limits.first_token)
        self._check(response, body)
        return self._checked(response)

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None, limit: float) -> _Response:
        """Return the whole response, which must come within `limit` seconds."""
        with self._translated():
            async with asyncio.timeout(limit), self._sent(method, path, body, limit) as response:
                return await _read(response)

    @asynccontextmanager
    async def _sent(
        self, method: str, path: str, body: Mapping[str, Any] | None, limit: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; its response must begin within `limit` seconds. The connection is kept if it was read."""
        if self._running >= self._max_running:
            raise EngineBusy
        self._running += 1
        try:
            with self._translated():
                async with asyncio.timeout(limit):
                    response = await self._http.request(method, self.url + path, json=body, allow_redirects=False)
            async with response:
                yield response
        finally:
            self._running -= 1

    def _about(self, problem: str) -> str:
        return f"The engine is unavailable: {problem}. Try again in a few seconds."

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except aiohttp.ClientError as error:
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

    def _checked(self, response: _Response) -> dict[str, Any]:
        """Return the JSON of a successful response. Raises the error that the status stands for."""
        self._check(response)
        with self._parsing():
            body: dict[str, Any] = json.loads(response.content)
            return body

    def _check(self, response: _Response, request: Mapping[str, Any] | None = None) -> None:
        if not response.is_success:
            error = self._error(response.status, _error(response), retry_after_seconds(response.headers))
            if isinstance(error, EngineRefused) and error.param is None and (request or {}).get(_STRUCTURED):
                # vLLM does not name the field of a schema that it cannot compile; the gateway has checked the others.
                error = EngineRefused(error.message, param=_STRUCTURED, code="invalid_structured_output")
            raise error

    def _streamed_error(self, error: Mapping[str, Any]) -> Exception:
        code = error.get("code")
        return self._error(code if isinstance(code, int) else HTTPStatus.SERVICE_UNAVAILABLE, error, 0.0)

    def _error(self, status: int, error: Mapping[str, Any], wait_seconds: float) -> Exception:
        message = str(error.get("message"))
        if status == HTTPStatus.NOT_FOUND:
            return UnknownToEngine()
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            busy = EngineBusy()
            busy.retry_after_seconds = wait_seconds or busy.retry_after_seconds
            return busy
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
            code = error.get("code")
            return EngineRefused(message, param=error.get("param"), code=code if isinstance(code, str) else None)
        away = EngineUnavailable(self._about(f"it answered {status}, {message}"))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            away = EngineUnavailable(_WRONG_KEY)
            away.public_message = _WRONG_KEY
        away.retry_after_seconds = wait_seconds or away.retry_after_seconds
        return away


async def _read(response: aiohttp.ClientResponse) -> _Response:
    return _Response(response.status, response.headers, await response.read())


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


def _error(response: _Response) -> Mapping[str, Any]:
    """Return the error of a response: in OpenAI's envelope, in FastAPI's, or its text."""
    try:
        body = json.loads(response.content)
    except ValueError:
        return {"message": response.content.decode(errors="replace")[:500]}
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return {"message": str(error)}
    return error if "message" in error else {"message": str(error.get("detail", error))}


def _message(response: _Response) -> str:
    return str(_error(response).get("message"))
