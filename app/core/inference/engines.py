"""The engines of this installation: chooses one for each request, and repeats the request where that may help.

A request is repeated only until its first chunk: afterwards the client has seen a part of the answer.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self, TypeVar

from app.core.errors import GrouptuneError
from app.core.inference import adapter_files
from app.core.inference.adapter_files import AdapterFiles
from app.core.inference.engine import Engine
from app.core.inference.engine_answers import EngineChunk, EngineCompletion, Usage
from app.core.inference.engine_client import LIMITS, EngineClient, TimeLimits
from app.core.inference.errors import (
    AdapterCheckFailed,
    EngineBusy,
    EngineUnavailable,
    InvalidEngineResponse,
    ModelNotServed,
    NoEngine,
    UnknownToEngine,
)
from app.core.inference.models import ServedModel
from app.core.models.registry import BaseModel
from app.core.models.tables import TrainedModel
from app.core.prometheus import FIRST_TOKEN_SECONDS, INFERENCE_TOKENS
from app.core.settings import Settings
from app.core.storage.blobs import BlobStore

LOAD_COST: Final = 8
"""An engine that has not loaded the adapter is chosen only if it has at least that many fewer requests."""
TRIES_PER_ENGINE: Final = 2
COPIES_PER_ADAPTER: Final = 4
"""Copies on disk for each adapter that an engine may hold: to copy one again takes longer than to load it."""
NAMES_KEPT: Final = 10_000
_FETCH_THREADS: Final = 4

T = TypeVar("T")


class Engines:
    """All engines. An async context manager: it polls them while it is open."""

    def __init__(self, settings: Settings, store: BlobStore, limits: TimeLimits = LIMITS) -> None:
        key = settings.serve_api_key.get_secret_value() if settings.serve_api_key else None
        self.all = [Engine(EngineClient(url, key, limits), settings.serve_max_adapters) for url in settings.serve_url]
        self._serve_dir = settings.serve_dir
        self._copies_kept = COPIES_PER_ADAPTER * settings.serve_max_adapters
        self._store = store
        self._threads = ThreadPoolExecutor(_FETCH_THREADS, "adapter-fetch")
        self._names: dict[str, str] = {}
        """Blob of an adapter -> name of its content."""
        self._fetching: dict[str, asyncio.Task[AdapterFiles]] = {}
        self._watching: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._watching = [asyncio.create_task(engine.watch(), name=f"watch {engine.client.url}") for engine in self.all]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for engine in self.all:
            await engine.client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def problems(self) -> list[str]:
        """Return one line for each engine that is known to be down, without its address: anybody may read them."""
        away = [
            (place, engine.problem)
            for place, engine in enumerate(self.all, 1)
            if engine.problem is not None and not engine.is_available
        ]
        return [f"Engine {place} of {len(self.all)}: {problem.message_for_clients}" for place, problem in away]

    def context_length(self, base: BaseModel) -> int | None:
        """Return the tokens of prompt and completion together that the model and its engines support, if known."""
        limits = [base.context_length, *(engine.context_length(base) for engine in self.all)]
        return min((limit for limit in limits if limit is not None), default=None)

    async def complete(self, served: ServedModel, body: Mapping[str, Any]) -> EngineCompletion:
        """Return the completions of one prompt. `body` has no `model`, `stream` and `stream_options`.

        Raises the errors of `inference.errors`, and those of the blob store.
        """

        async def work(engine: Engine, model: str, _stack: AsyncExitStack) -> EngineCompletion:
            completion = await engine.client.complete({**body, "model": model})
            _count(engine, completion.usage)
            return completion

        async with AsyncExitStack() as stack:
            return await self._repeated(served, work, stack)

    @asynccontextmanager
    async def stream(self, served: ServedModel, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[EngineChunk]]:
        """Open a streamed answer. The block begins once the first chunk is here; its end closes the connection.

        Raises as `complete`; the iterator raises `EngineUnavailable` if the engine fails during the answer.
        """

        started = time.monotonic()

        async def work(engine: Engine, model: str, stack: AsyncExitStack) -> AsyncIterator[EngineChunk]:
            chunks = await stack.enter_async_context(engine.client.stream({**body, "model": model}))
            first = await anext(chunks, None)
            if first is None:
                raise InvalidEngineResponse
            FIRST_TOKEN_SECONDS.labels(engine.label).observe(time.monotonic() - started)
            return _chained(first, chunks, engine)

        async with AsyncExitStack() as stack:
            yield await self._repeated(served, work, stack)

    async def _repeated(
        self, served: ServedModel, work: Callable[[Engine, str, AsyncExitStack], Awaitable[T]], stack: AsyncExitStack
    ) -> T:
        """Return the result of `work` on the first engine on which it succeeds; `stack` then holds what it needs."""
        name = None if served.adapter is None else await self._name_of(served.adapter)
        tries: Counter[Engine] = Counter()
        last: GrouptuneError | None = None
        while True:
            engine = await self._choose(served, name, tries, last)
            tries[engine] += 1
            try:
                async with AsyncExitStack() as attempt:
                    model = await self._prepare(engine, served, name, attempt)
                    result = await work(engine, model, attempt)
                    stack.push_async_exit(attempt.pop_all())
                    return result
            except UnknownToEngine as error:  # its adapter was unloaded, or the engine was restarted
                if name is not None:
                    engine.forget(name)
                await engine.poll()
                last = error
            except EngineUnavailable as error:
                await engine.poll()
                last = error
            except (EngineBusy, AdapterCheckFailed) as error:
                tries[engine] = TRIES_PER_ENGINE
                last = error

    async def _prepare(self, engine: Engine, served: ServedModel, name: str | None, stack: AsyncExitStack) -> str:
        """Return the engine's name of the model, after loading its adapter; the adapter stays until `stack` ends."""
        base_name = engine.name_of(served.base)
        if base_name is None:
            raise UnknownToEngine
        stack.enter_context(engine.request(name))
        if name is None or served.adapter is None:
            return base_name
        if not engine.has_ready(name):
            await engine.load(await self._files(served.adapter), base_name)
        return name

    async def _choose(
        self, served: ServedModel, name: str | None, tries: Counter[Engine], last: GrouptuneError | None
    ) -> Engine:
        """Return the engine for the next try: the least busy one, preferably one that has the adapter.

        Without one, raises `last`, or the reason why there is none.
        """
        if not self.all:
            raise NoEngine
        fitting = await self._fitting(served)
        untried = [engine for engine in fitting if tries[engine] < TRIES_PER_ENGINE]
        if not untried and last is not None:
            raise last
        unfailed = [engine for engine in untried if name is None or engine.failed_check(name) is None]
        if untried and not unfailed and name is not None:
            raise untried[0].failed_check(name) or AdapterCheckFailed()
        if not unfailed:
            raise self._none(served)
        return min(unfailed, key=lambda engine: (tries[engine], _cost(engine, name)))

    async def _fitting(self, served: ServedModel) -> Sequence[Engine]:
        """Return the available engines that serve the base model; waits for the first poll if necessary."""

        def fitting() -> list[Engine]:
            return [engine for engine in self.all if engine.is_available and engine.name_of(served.base) is not None]

        if not (found := fitting()):
            # Engines that were not polled yet, and an embedded engine whose models directory has grown.
            await asyncio.gather(*(engine.polled.wait() for engine in self.all))
            await asyncio.gather(*(engine.poll() for engine in self.all if engine.is_available))
            found = fitting()
        return found

    def _none(self, served: ServedModel) -> GrouptuneError:
        away = [engine for engine in self.all if not engine.is_available]
        if away:
            known = away[0].problem
            error = EngineUnavailable(known.message if known else None)
            error.public_message = known.message_for_clients if known else None
            error.retry_after_seconds = min(engine.retry_after_seconds for engine in away)
            return error
        names = sorted({model.id for engine in self.all for model in engine.models if model.parent is None})
        return ModelNotServed(
            f"No engine serves the base model '{served.base.name}'. The engines serve: {', '.join(names) or 'none'}. "
            f"Start one with `--served-model-name {served.base.name}`, and add its URL to GROUPTUNE_SERVE_URL.",
            param="model",
        )

    async def _name_of(self, adapter: TrainedModel) -> str:
        """Return the name of the adapter's content, which never changes."""
        if adapter.blob not in self._names:
            if len(self._names) >= NAMES_KEPT:
                self._names.clear()
            self._names[adapter.blob] = await self._in_thread(adapter_files.name_of, self._store, adapter)
        return self._names[adapter.blob]

    async def _files(self, adapter: TrainedModel) -> AdapterFiles:
        """Return the copy of the adapter's files; concurrent requests share one copying."""
        task = self._fetching.get(adapter.blob)
        if task is None:
            task = asyncio.create_task(self._fetch(adapter), name=f"fetch {adapter.blob}")
            self._fetching[adapter.blob] = task
            task.add_done_callback(lambda done: self._fetched(adapter.blob, done))
        return await asyncio.shield(task)  # a client that hangs up does not stop it for others

    async def _fetch(self, adapter: TrainedModel) -> AdapterFiles:
        files = await self._in_thread(adapter_files.fetch, self._store, adapter, self._serve_dir)
        in_use = {name for engine in self.all for name in engine.adapters} | {files.name}
        await self._in_thread(adapter_files.evict, self._serve_dir, self._copies_kept, in_use)
        return files

    def _fetched(self, blob: str, task: asyncio.Task[AdapterFiles]) -> None:
        del self._fetching[blob]
        if not task.cancelled():
            task.exception()  # marks it as seen: the clients that waited for it may all have hung up

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _cost(engine: Engine, adapter: str | None) -> int:
    return engine.active + (0 if adapter is None or adapter in engine.adapters else LOAD_COST)


async def _chained(first: EngineChunk, rest: AsyncIterator[EngineChunk], engine: Engine) -> AsyncIterator[EngineChunk]:
    yield first
    try:
        async for chunk in rest:
            if chunk.usage is not None:
                _count(engine, chunk.usage)
            yield chunk
    except EngineUnavailable:
        engine.failed()
        raise


def _count(engine: Engine, usage: Usage) -> None:
    INFERENCE_TOKENS.labels(engine.label, "prompt").inc(usage.prompt_tokens)
    INFERENCE_TOKENS.labels(engine.label, "completion").inc(usage.completion_tokens)
