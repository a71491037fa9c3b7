"""One engine as the gateway sees it: whether it is available, its base models, and the adapters loaded on it."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import structlog

from app.core.errors import GrouptuneError
from app.core.inference import probe
from app.core.inference.adapter_files import NAME, AdapterFiles
from app.core.inference.engine_answers import ListedModel
from app.core.inference.engine_client import EngineClient
from app.core.inference.errors import (
    AdapterCheckFailed,
    AdapterRefused,
    EngineBusy,
    EngineRefused,
    EngineTimedOut,
    EngineUnavailable,
)
from app.core.models.hub_source import hub_source
from app.core.models.registry import BaseModel
from app.core.plurals import plural
from app.core.prometheus import ADAPTER_LOADS, ENGINE_ADAPTERS, ENGINE_UP, INFERENCE_REQUESTS

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 10.0
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 3.0
TOLERATED_TIMEOUTS: Final = 1
"""Polls in a row that may take too long: a busy engine is not one that is down."""
FAILED_CHECK_SECONDS: Final = 300.0
"""After this time an adapter that failed its check is loaded again: the engine may have been repaired."""
WAIT_FOR_ROOM_SECONDS: Final = 30.0


@dataclass(frozen=True)
class _FailedCheck:
    error: AdapterCheckFailed
    until: float
    """Monotonic time."""


class Engine:
    """The state of one engine. All methods belong to one event loop; any thread may call `context_length`."""

    def __init__(self, client: EngineClient, max_adapters: int) -> None:
        self.client = client
        self.label = urlsplit(client.url).netloc
        """Its name in metrics and logs."""
        self.max_adapters = max_adapters
        self.active = 0
        """Requests that are running on it, from this process."""
        self.is_available = False
        self.polled = asyncio.Event()
        """Set after the first poll."""
        self.problem: EngineUnavailable | None = None
        """Why it was not available when it was last polled in vain."""
        self.models: list[ListedModel] = []
        self._served: dict[BaseModel, ListedModel | None] = {}
        """Found since the last poll: each request asks several times, and to find it files are read."""
        self.adapters: OrderedDict[str, None] = OrderedDict()
        """Names of the loaded adapters, least recently used first."""
        self._checked: set[str] = set()
        self._failed: dict[str, _FailedCheck] = {}
        self._in_use: Counter[str] = Counter()
        self._released = asyncio.Event()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._changes = 0
        """Number of loads and unloads: a list that was requested before one of them is outdated."""
        self._lock = asyncio.Lock()
        """Held during a load, so that two loads cannot take the same free place."""
        self._failures = 0
        self._timeouts = 0
        self._poll_now = asyncio.Event()

    async def watch(self) -> None:
        """Poll the engine forever: every ten seconds, more often while it is down, and at once after a failure."""
        while True:
            await self.poll()
            self._poll_now.clear()
            try:
                async with asyncio.timeout(POLL_SECONDS if self.is_available else self._backoff_seconds):
                    await self._poll_now.wait()
            except TimeoutError:
                continue

    async def poll(self) -> bool:
        """Request the list of models; return whether the engine is available."""
        changes = self._changes
        try:
            models = await self.client.models()
        except EngineTimedOut as error:
            self._timeouts += 1
            if self._timeouts > TOLERATED_TIMEOUTS or not self.is_available:
                self._set_away(error)
        except GrouptuneError as error:
            self._set_away(error if isinstance(error, EngineUnavailable) else EngineUnavailable(error.message))
        else:
            self._set_available(models, is_current=changes == self._changes)
        self.polled.set()
        ENGINE_UP.labels(self.label).set(self.is_available)
        ENGINE_ADAPTERS.labels(self.label).set(len(self.adapters))
        return self.is_available

    def failed(self) -> None:
        """Poll soon, because a request has failed."""
        self._poll_now.set()

    @property
    def _backoff_seconds(self) -> float:
        return min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** (self._failures - 1))

    @property
    def retry_after_seconds(self) -> float:
        """When a request may succeed again after the engine was down."""
        return max(1.0, self._backoff_seconds)

    def name_of(self, base: BaseModel) -> str | None:
        """Return the engine's name of a base model; None if it does not serve it."""
        served = self._listed(base)
        return None if served is None else served.id

    def context_length(self, base: BaseModel) -> int | None:
        """Return the tokens of prompt and completion together that the engine supports, if it says so."""
        served = self._listed(base)
        return None if served is None else served.max_length

    def _listed(self, base: BaseModel) -> ListedModel | None:
        served = self._served  # the event loop replaces it when it polls
        if base not in served:
            served[base] = self._find(base)
        return served[base]

    def _find(self, base: BaseModel) -> ListedModel | None:
        names = {base.name.lower(), str(base.directory)}
        if source := hub_source(base.directory):
            names.add(source.hub_id.lower())
        for model in self.models:
            if model.parent is None and (model.id.lower() in names or (model.root or "") in names):
                return model
        return None

    def failed_check(self, adapter: str) -> AdapterCheckFailed | None:
        """Return the error of an adapter whose last check has failed."""
        failed = self._failed.get(adapter)
        return failed.error if failed is not None and failed.until > time.monotonic() else None

    @contextmanager
    def request(self, adapter: str | None) -> Iterator[None]:
        """Count a request; its adapter is not unloaded during the block."""
        self.active += 1
        if adapter is not None:
            self._in_use[adapter] += 1
        outcome = "ok"
        try:
            yield
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            INFERENCE_REQUESTS.labels(self.label, outcome).inc()
            self.active -= 1
            if adapter is not None:
                self._in_use[adapter] -= 1
                self._released.set()

    def has_ready(self, adapter: str) -> bool:
        """Return whether the adapter is loaded and checked, and mark it as used now."""
        if adapter not in self.adapters or adapter not in self._checked:
            return False
        self.adapters.move_to_end(adapter)
        return True

    async def load(self, files: AdapterFiles, base_name: str) -> None:
        """Load and check an adapter; concurrent calls share one load. Call it inside `request`.

        Raises `AdapterRefused`, `AdapterCheckFailed`, `EngineBusy` if all loaded adapters are in use, `UnknownToEngine`
        if the engine cannot see the files, and `EngineUnavailable`.
        """
        if self.has_ready(files.name):  # another request has loaded it while this one waited for the files
            return
        task = self._loading.get(files.name)
        if task is None:
            task = asyncio.create_task(self._load(files, base_name), name=f"load {files.name}")
            self._loading[files.name] = task
            task.add_done_callback(lambda done: self._loaded(files.name, done))
        await asyncio.shield(task)  # a client that hangs up does not stop the load for others

    def _loaded(self, name: str, task: asyncio.Task[None]) -> None:
        del self._loading[name]
        # Reading the exception marks it as seen: the clients that waited for it may all have hung up.
        error = None if task.cancelled() else task.exception()
        ADAPTER_LOADS.labels(self.label, "ok" if error is None else _outcome(error)).inc()

    def forget(self, adapter: str) -> None:
        """Note that the engine has lost an adapter."""
        self._changes += 1
        self.adapters.pop(adapter, None)
        self._checked.discard(adapter)

    async def _load(self, files: AdapterFiles, base_name: str) -> None:
        async with self._lock:
            if files.name not in self.adapters:
                await self._make_room()
                self._changes += 1
                await self.client.load(files.name, str(files.path), base_name)
                log.info("engine.adapter_loaded", engine=self.label, adapter=files.name)
            self._changes += 1
            self.adapters[files.name] = None
            self.adapters.move_to_end(files.name)
            if files.name not in self._checked:
                await self._check(files, base_name)
                self._checked.add(files.name)

    async def _make_room(self) -> None:
        """Unload the least recently used adapters until there is a free place."""
        deadline = time.monotonic() + WAIT_FOR_ROOM_SECONDS
        while len(self.adapters) >= self.max_adapters:
            victim = next((name for name in self.adapters if not self._in_use[name]), None)
            if victim is not None:
                await self._unload(victim)
                continue
            self._released.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._released.wait()
            except TimeoutError:
                raise EngineBusy(
                    f"The engine has room for {plural(self.max_adapters, 'adapter')}, all in use. Try again in a few "
                    "seconds, or ask the operator to raise GROUPTUNE_SERVE_MAX_ADAPTERS."
                ) from None

    async def _unload(self, name: str) -> None:
        self.forget(name)
        await self.client.unload(name)
        log.info("engine.adapter_unloaded", engine=self.label, adapter=name)

    async def _check(self, files: AdapterFiles, base_name: str) -> None:
        try:
            await self._compare(files, base_name)
        except AdapterCheckFailed as error:
            log.error("engine.adapter_check_failed", engine=self.label, adapter=files.name, message=error.message)
            self._failed[files.name] = _FailedCheck(error, time.monotonic() + FAILED_CHECK_SECONDS)
            await self._unload(files.name)
            raise
        self._failed.pop(files.name, None)

    async def _compare(self, files: AdapterFiles, base_name: str) -> None:
        stored = probe.read(files.path)
        if stored is not None:
            found = probe.distances(stored, await self.client.prompt_logprobs(files.name, stored.ids))
            log.info("engine.adapter_checked", engine=self.label, adapter=files.name, **vars(found))
            probe.check(found)
            return
        with_adapter = await self.client.prompt_logprobs(files.name, probe.FIXED_IDS)
        probe.check_differs(with_adapter, await self.client.prompt_logprobs(base_name, probe.FIXED_IDS))

    def _set_away(self, problem: EngineUnavailable) -> None:
        if self.is_available or not self._failures:
            log.warning("engine.away", engine=self.label, problem=problem.message)
            self._checked.clear()  # what comes back may be another engine
        self.is_available, self.problem = False, problem
        self._failures += 1

    def _set_available(self, models: list[ListedModel], *, is_current: bool) -> None:
        if not self.is_available:
            log.info("engine.available", engine=self.label, models=[model.id for model in models])
        self.is_available, self.models, self._served = True, models, {}
        self._failures = self._timeouts = 0
        if is_current:
            listed = {model.id for model in models if model.parent is not None and NAME.fullmatch(model.id)}
            for name in self.adapters.keys() - listed:
                self.forget(name)
            for name in listed - self.adapters.keys():  # loaded by another process of the API
                self.adapters[name] = None
                self.adapters.move_to_end(name, last=False)


def _outcome(error: BaseException) -> str:
    """Return the label of a failed request or load."""
    for kind, outcome in _OUTCOMES.items():
        if isinstance(error, kind):
            return outcome
    return "failed"


_OUTCOMES: Final[dict[type[BaseException], str]] = {
    EngineBusy: "busy",
    EngineUnavailable: "unavailable",
    EngineRefused: "refused",
    AdapterRefused: "refused",
    AdapterCheckFailed: "check_failed",
    asyncio.CancelledError: "cancelled",
    GeneratorExit: "cancelled",
}
