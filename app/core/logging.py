"""Logging of all processes: JSON lines on standard error, readable text on a terminal.

Log lines of libraries (uvicorn, Celery, SQLAlchemy) get the same format, with the ids of their request or attempt.
"""

import logging
import sys
from typing import Final

import structlog

TALKATIVE: Final = ("celery",)
"""Loggers whose INFO messages are kept; uvicorn sets its own level."""
OWN_HANDLERS: Final = ("uvicorn", "uvicorn.error")
"""Loggers that have handlers of their own, which are removed."""
ACCESS: Final = "uvicorn.access"
"""Silenced: our own `request.answered` has more fields, and no query strings."""


class _Handler(logging.StreamHandler):  # type: ignore[type-arg] # generic for type checkers alone
    """Our handler; the class distinguishes it from other handlers."""


def configure() -> None:
    """Configure logging at the start of a process. A second call replaces the configuration.

    Tracebacks are plain: structlog's default prints local variables, which may hold keys and URLs with passwords, and
    takes seconds.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    if sys.stderr.isatty():
        rendering = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    structlog.configure(processors=[*shared, *rendering], logger_factory=structlog.WriteLoggerFactory(sys.stderr))
    handler = _Handler(sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
    )
    handler.setFormatter(formatter)
    _route_libraries(handler)


def _route_libraries(handler: logging.Handler) -> None:
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name in OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    access = logging.getLogger(ACCESS)
    access.handlers.clear()
    access.propagate = False
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.INFO)
