"""OpenTelemetry traces: spans of requests and attempts, sent by OTLP/HTTP when the environment names a collector.

Without `OTEL_EXPORTER_OTLP_ENDPOINT`, or without the extra `otel`, nothing is loaded and every call does nothing.
Otherwise a background thread sends the spans from a bounded queue: an unreachable collector costs spans, but no time.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any, Final, Literal

import structlog

log = structlog.get_logger(__name__)

FLUSH_SECONDS: Final = 3.0
"""Limit for sending the remaining spans at the end of a process."""
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

Kind = Literal["internal", "server", "consumer"]
Value = str | bool | int | float | None

_CURRENT: ContextVar[str | None] = ContextVar("traceparent", default=None)


def current() -> str | None:
    """Return the `traceparent` (W3C Trace Context) of the current span; None if nothing is traced."""
    return _CURRENT.get()


class TraceSpan:
    """A span; this base class records nothing."""

    traceparent: str | None = None

    def rename(self, name: str) -> None:
        """Change the name, when it becomes known only during the span."""

    def set(self, **values: Value) -> None:
        """Set attributes; `__` in a name stands for a dot, and None values are skipped."""

    def fail(self, reason: str) -> None:
        """Mark the span as an error."""

    def end(self) -> None:
        """End the span before the end of its block."""


class Tracer:
    """Creates spans; this base class creates spans that record nothing."""

    is_on = False

    @contextmanager
    def span(
        self, name: str, *, parent: str | None = None, kind: Kind = "internal", **values: Value
    ) -> Iterator[TraceSpan]:
        """Open a span for the block: a child of the current span, or of `parent`, a `traceparent` from elsewhere.

        An exception marks the span as an error and propagates.
        """
        yield TraceSpan()

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Send the remaining spans, within `seconds`."""


OFF: Final = Tracer()


def load(service: str) -> Tracer:
    """Return the tracer that the environment configures; `OTEL_SERVICE_NAME` replaces `service`. Never raises."""
    has_endpoint = any(os.environ.get(name, "").strip() for name in _ENDPOINTS)
    if not has_endpoint or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return OFF
    try:
        return _Exporting(service)
    except ModuleNotFoundError as error:
        log.warning("tracing.not_installed", missing=error.name, fix="pip install 'grouptune[otel]'")
    # A boundary: an installation must run even if its tracing is broken.
    except Exception as error:
        log.warning("tracing.not_configured", error=str(error))
    return OFF


class _Exporting(Tracer):
    """Creates spans with OpenTelemetry's SDK, which reads all other `OTEL_` variables itself."""

    is_on = True

    def __init__(self, service: str) -> None:
        import logging  # noqa: PLC0415 - as the next ones

        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        # The SDK logs a traceback for every batch that it cannot send.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        name = os.environ.get("OTEL_SERVICE_NAME") or service
        resource = Resource.create({"service.name": name, "service.version": version("grouptune")})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("grouptune")
        log.info("tracing.on", service=name)

    @contextmanager
    def span(
        self, name: str, *, parent: str | None = None, kind: Kind = "internal", **values: Value
    ) -> Iterator[TraceSpan]:
        span = _Recorded(self._tracer, name, parent or current(), kind)
        span.set(**values)
        token = _CURRENT.set(span.traceparent)
        try:
            yield span
        except Exception as error:
            span.fail(f"{type(error).__name__}: {error}")
            raise
        finally:
            _CURRENT.reset(token)
            span.end()

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        # The SDK would wait half a minute for a collector that does not respond.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-end", daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            log.warning("tracing.not_sent", reason="the collector does not take the last spans")


class _Recorded(TraceSpan):
    def __init__(self, tracer: Any, name: str, parent: str | None, kind: Kind) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - optional
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        carrier = {} if parent is None else {"traceparent": parent}
        context = TraceContextTextMapPropagator().extract(carrier)
        self._span = tracer.start_span(name, context=context, kind=SpanKind[kind.upper()])
        own = self._span.get_span_context()
        self.traceparent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, **values: Value) -> None:
        attributes = {name.replace("__", "."): value for name, value in values.items() if value is not None}
        self._span.set_attributes(attributes)

    def fail(self, reason: str) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - optional

        self._span.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        if self._span.is_recording():
            self._span.end()
