"""The engine's HTTP server: parses requests, hands them to the engine's thread, and writes its events."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from tokenizers import Tokenizer

from app.core.settings import Settings
from worker.serving.catalog import BaseFiles, Catalog
from worker.serving.engine import Engine
from worker.serving.errors import RequestError, invalid
from worker.serving.responses import CompletionWriter
from worker.serving.sequences import Chunk, Event, Request
from worker.serving.wire import CompletionBody, LoadAdapterBody, UnloadAdapterBody

Body = TypeVar("Body", bound=BaseModel)
_EVENT_STREAM: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Server:
    """The routes of one engine."""

    def __init__(self, settings: Settings, on_death: Callable[[], None]) -> None:
        """`on_death` is called in the engine's thread when it has failed."""
        self._key = settings.serve_api_key
        self.catalog = Catalog(settings.models_dir, settings.serve_dir / "adapters", settings.serve_max_adapters)
        self.engine = Engine(settings, self.catalog, self._emit, on_death)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._guarded(self._models)),
                Route("/v1/completions", self._guarded(self._completions), methods=["POST"]),
                Route("/v1/load_lora_adapter", self._guarded(self._load_adapter), methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._guarded(self._unload_adapter), methods=["POST"]),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self.engine.start()
        yield
        await asyncio.to_thread(self.engine.stop)

    def _emit(self, events: Sequence[tuple[Request, Event]]) -> None:
        """Hand the events of one step to the event loop, in one call. Runs in the engine's thread."""
        if events and self._loop is not None:
            self._loop.call_soon_threadsafe(_deliver, events)

    def _guarded(
        self, handler: Callable[[HttpRequest], Awaitable[Response]]
    ) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def guarded(request: HttpRequest) -> Response:
            try:
                self._authenticate(request)
                return await handler(request)
            except RequestError as error:
                return _error_response(error)

        return guarded

    def _authenticate(self, request: HttpRequest) -> None:
        if self._key is None:
            return
        expected = f"Bearer {self._key.get_secret_value()}"
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), expected.encode()):
            raise RequestError(401, "invalid_api_key", "The engine needs its bearer key.", None)

    async def _health(self, _request: HttpRequest) -> Response:
        return Response(status_code=200)

    async def _models(self, _request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": await asyncio.to_thread(self.catalog.listing)})

    async def _completions(self, http: HttpRequest) -> Response:
        body = await _parse(http, CompletionBody)
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        request = await asyncio.to_thread(self._prepare, body, events.put_nowait)
        self.engine.submit(request)
        return _CompletionResponse(self.engine, request, events)

    def _prepare(self, body: CompletionBody, listener: Callable[[Event], None]) -> Request:
        """Check a request against its model, and compile its constraint."""
        base_name, adapter = self.catalog.find(body.model)
        files = self.catalog.base(base_name)
        files.check(body)
        matcher = None
        if body.structured_outputs is not None:
            from worker.serving import constraints  # noqa: PLC0415 - for the few requests that need it

            tokenizer = constraints.load_tokenizer(_tokenizer_file(files), files.vocabulary, body.stop_token_ids)
            matcher = constraints.compile_constraint(body.structured_outputs, tokenizer)
        return Request(body, base_name, _load_tokenizer(files.directory), listener, adapter, matcher)

    async def _load_adapter(self, http: HttpRequest) -> Response:
        body = await _parse(http, LoadAdapterBody)
        directory = self.catalog.adapter_directory(body.lora_path)
        self.catalog.base(body.base_model_name)
        if not self.catalog.loaded(body.lora_name, directory):
            adapter = await asyncio.to_thread(_read_adapter, body.lora_name, directory, body.base_model_name)
            self.engine.free(self.catalog.add(adapter))
        return JSONResponse({"message": f"Adapter '{body.lora_name}' is loaded."})

    async def _unload_adapter(self, http: HttpRequest) -> Response:
        body = await _parse(http, UnloadAdapterBody)
        self.engine.free([self.catalog.remove(body.lora_name)])
        return JSONResponse({"message": f"Adapter '{body.lora_name}' is unloaded."})


def _deliver(events: Sequence[tuple[Request, Event]]) -> None:
    for request, event in events:
        request.listener(event)


async def _parse(http: HttpRequest, model: type[Body]) -> Body:
    try:
        return model.model_validate_json(await http.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise invalid(f"{place or 'body'}: {first['msg']}.", place or None) from error


def _read_adapter(name: str, directory: Path, base: str) -> Any:
    from worker.serving.adapters import read_adapter  # noqa: PLC0415 - imports torch

    return read_adapter(name, directory, base)


def _tokenizer_file(files: BaseFiles) -> Path:
    path = files.directory / "tokenizer.json"
    if not path.is_file():
        raise RequestError(400, "model_without_tokenizer", f"Base model '{files.name}' has no tokenizer.json.", "model")
    return path


@lru_cache(maxsize=8)
def _load_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def _error_response(error: RequestError) -> Response:
    headers = {} if error.retry_seconds is None else {"retry-after": str(error.retry_seconds)}
    return JSONResponse(error.envelope(), error.status, headers)


class _CompletionResponse(Response):
    """Sends the events of a request as they come, or all at once. Aborts the request when the client disconnects."""

    def __init__(self, engine: Engine, request: Request, events: "asyncio.Queue[Event | None]") -> None:
        super().__init__()
        self._engine = engine
        self._request = request
        self._events = events
        self._writer = CompletionWriter(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(self._watch(receive))
        try:
            if self._request.body.stream:
                await self._stream(send)
            else:
                await self._whole(scope, receive, send)
        finally:
            watch.cancel()
            self._engine.abort(self._request)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._engine.abort(self._request)
        self._events.put_nowait(None)

    async def _chunks(self) -> AsyncIterator[Chunk]:
        """Yield the chunks until all sequences have ended. Raises `RequestError`; ends early on a disconnect."""
        left = self._request.body.n
        while left:
            event = await self._events.get()
            if event is None:
                return
            if isinstance(event, RequestError):
                raise event
            left -= event.finish_reason is not None
            yield event

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            chunks = [chunk async for chunk in self._chunks()]
        except RequestError as error:
            await _error_response(error)(scope, receive, send)
            return
        if not self._request.is_aborted:
            await JSONResponse(self._writer.whole(chunks))(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        chunks = self._chunks()
        try:
            first = await anext(chunks, None)
        except RequestError as error:  # before the first token an error can still have its own status
            await _send_error(error, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        try:
            if first is not None:
                await send(_data(self._writer.chunk(first)))
                async for chunk in chunks:
                    await send(_data(self._writer.chunk(chunk)))
            if self._request.body.wants_usage:
                await send(_data(self._writer.usage_chunk()))
        except RequestError as error:
            await send(_data(error.envelope()))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _send_error(error: RequestError, send: Send) -> None:
    response = _error_response(error)
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body})


def _data(value: dict[str, Any]) -> Message:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return {"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True}
