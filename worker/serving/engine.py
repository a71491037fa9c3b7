"""The engine's thread: takes requests from a queue, runs the batch step by step, and hands out events.

One base model is in memory at a time. A request for another base model waits until the requests before it have ended;
requests behind it wait as well, so none starves. torch is imported with the first request: an idle process stays small.
"""

import ctypes
import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from app.core.plurals import plural
from app.core.settings import Settings
from worker.serving.catalog import Catalog
from worker.serving.errors import RequestError
from worker.serving.huge_pages import use_huge_pages
from worker.serving.sequences import Event, Request

if TYPE_CHECKING:
    import torch

    from worker.serving.batch import Batch
    from worker.serving.plain import PlainBatch
    from worker.serving.threads import ThreadLimit

    NewBatch = Callable[[int, int], Batch | PlainBatch]
    """Makes a batch of at most this number of sequences and bytes of keys and values."""

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 2
_KV_SHARE: Final = 0.4
"""Share of the memory that is free after loading that keys and values may take."""

Emit = Callable[[Sequence[tuple[Request, Event]]], None]
"""Receives the events of a step, in the engine's thread."""


class Engine:
    """Runs requests. `submit`, `abort` and `stop` may be called from any thread."""

    def __init__(self, settings: Settings, catalog: Catalog, emit: Emit, on_death: Callable[[], None]) -> None:
        self._settings = settings
        self._catalog = catalog
        self._emit = emit
        self._on_death = on_death
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._dropped: list[object] = []
        """Unloaded adapters whose memory the engine's thread must free."""
        self._stopping = False
        self._base = ""
        self._is_plain = False
        """Whether the base model is loaded as a `PlainBase`."""
        self._length_limit: int | None = None
        """Tokens up to which sequences of the base model can share a forward pass; None without a limit."""
        self._batch: Batch | PlainBatch | None = None
        self._threads: ThreadLimit | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End all requests and the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, request: Request) -> None:
        """Queue a request. Raises `RequestError` with status 429 if the queue is full."""
        with self._changed:
            waiting = sum(each.body.n for each in self._waiting)
            if waiting and waiting + request.body.n > self._settings.serve_max_queued:
                raise RequestError(
                    429,
                    "engine_busy",
                    f"The queue of this engine is full ({plural(waiting, 'completion')}). Retry later.",
                    None,
                    RETRY_SECONDS,
                )
            self._waiting.append(request)
            self._changed.notify()

    def abort(self, request: Request) -> None:
        """End a request before the next step. It receives no further event."""
        with self._changed:
            request.is_aborted = True
            self._changed.notify()

    def free(self, adapters: Sequence[object]) -> None:
        """Free what the base model keeps for unloaded adapters."""
        with self._changed:
            self._dropped += adapters
            self._changed.notify()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wait()
                self._turn()
        except BaseException:
            log.exception("engine.died")
            self._fail_all(RequestError(500, "engine_error", "The engine failed and restarts. Retry the request."))
            self._on_death()
            raise
        self._fail_all(RequestError(503, "engine_stopping", "The engine is stopping.", None, RETRY_SECONDS))

    def _wait(self) -> None:
        """Blocks while there is nothing to do; unloads the base model if that takes too long."""
        with self._changed:
            if self._batch is not None and not self._batch.is_empty:
                return
            while not (self._waiting or self._stopping or self._dropped):
                timeout = None if self._batch is None else self._settings.serve_idle_seconds
                if not self._changed.wait(timeout) and self._batch is not None:
                    log.info("engine.base_unloaded", base=self._base, reason="idle")
                    self._unload()

    def _turn(self) -> None:
        """Admits requests and computes one step."""
        with self._changed:
            dropped, self._dropped = self._dropped, []
        if self._batch is not None:
            for adapter in dropped:
                self._batch.forget(adapter)
            self._batch.drop_aborted()
        while (request := self._next()) is not None:
            try:
                self._start(request)
            except RequestError as error:
                self._emit([(request, error)])
        if self._batch is not None and not self._batch.is_empty:
            if self._threads is not None:
                self._threads.adapt()
            self._emit(self._batch.step())

    def _next(self) -> Request | None:
        """Takes the first waiting request that can start now."""
        with self._changed:
            while self._waiting and self._waiting[0].is_aborted:
                self._waiting.popleft()
            if self._waiting and self._can_start(self._waiting[0]):
                return self._waiting.popleft()
            return None

    def _can_start(self, request: Request) -> bool:
        if self._batch is None or self._batch.is_empty:
            return True
        return self._serves(request) and self._batch.has_room(request)

    def _serves(self, request: Request) -> bool:
        """Returns whether the loaded base model can compute the request."""
        return request.base == self._base and (self._is_plain or self._plain_reason(request) is None)

    def _plain_reason(self, request: Request) -> str | None:
        """Returns why packed rows cannot compute the request on the loaded base model, or None."""
        if request.adapter is not None and request.adapter.is_plain:
            return "the adapter changes experts"
        limit = self._length_limit
        if limit is not None and len(request.body.prompt) + request.body.max_tokens > limit:
            return f"a sequence of more than {limit:,} tokens changes the position embeddings of all others"
        return None

    def _start(self, request: Request) -> None:
        if self._batch is None or not self._serves(request):
            self._unload()
            self._batch = self._load(request)
            self._base = request.base
        self._batch.check(request)
        self._batch.add(request)

    def _load(self, request: Request) -> "Batch | PlainBatch":
        # Hides bitsandbytes, which this engine never uses: transformers imports it where it is installed, in a second.
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type] # the mark for "not installed"
        import torch  # noqa: PLC0415 - takes seconds and 200 MB
        from transformers import AutoConfig  # noqa: PLC0415

        from worker.serving.base import NotPacked, ServedBase  # noqa: PLC0415
        from worker.serving.batch import Batch  # noqa: PLC0415
        from worker.serving.threads import ThreadLimit  # noqa: PLC0415
        from worker.training.rope import length_limit  # noqa: PLC0415

        started = time.monotonic()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu" and self._threads is None:
            self._threads = ThreadLimit(self._settings.serve_threads or torch.get_num_threads())
        name, directory = request.base, self._catalog.base(request.base).directory
        batch: NewBatch | None = None
        self._length_limit = length_limit(AutoConfig.from_pretrained(directory, local_files_only=True))
        path: dict[str, object] = {"path": "plain", "reason": self._plain_reason(request)}
        if path["reason"] is None:
            try:
                served = ServedBase.load(name, directory, device)
                batch = partial(Batch, served)
                path = {"path": "packed", "short_layers": served.short_layers}
            except NotPacked as problem:
                path["reason"] = str(problem)
        self._is_plain = batch is None
        if batch is None:  # outside of `except`, whose error keeps the first model in memory
            gc.collect()
            _return_memory()
            batch = _plain_batch(name, directory, device)
        free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else _available_memory()
        facts = {
            "device": str(device),
            **path,
            "huge_pages_bytes": use_huge_pages() if device.type == "cpu" else 0,
            "seconds": round(time.monotonic() - started, 2),
        }
        log.info("engine.base_loaded", base=name, **facts)
        return batch(self._settings.serve_max_sequences, int(free * _KV_SHARE))

    def _unload(self) -> None:
        if self._batch is None:
            return
        self._batch, self._base = None, ""
        gc.collect()
        _return_memory()

    def _fail_all(self, error: RequestError) -> None:
        running = self._batch.requests() if self._batch is not None else set()
        with self._changed:
            self._stopping = True
            waiting = list(self._waiting)
            self._waiting.clear()
        self._emit([(request, error) for request in (*running, *waiting)])


def _plain_batch(name: str, directory: Path, device: "torch.device") -> "NewBatch":
    from worker.serving.plain import PlainBase, PlainBatch  # noqa: PLC0415 - loads PEFT

    return partial(PlainBatch, PlainBase.load(name, directory, device))


def _available_memory() -> int:
    with open("/proc/meminfo", encoding="ascii") as lines:
        [kilobytes] = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes) * 1024


def _return_memory() -> None:
    """Returns freed memory to the system; glibc would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent from musl
    if trim is not None:
        trim(0)
