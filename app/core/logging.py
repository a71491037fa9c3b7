"""How this installation's processes log: JSON lines on standard error, readable text on a terminal.

What libraries log (uvicorn, Celery, SQLAlchemy) takes the same way, with the ids of the request or attempt around it.
"""

import logging
import sys
from typing import Final

import structlog

TALKATIVE: Final = ("celery",)
"""Whose messages of level INFO are worth reading; uvicorn sets its own level."""
OWN_HANDLERS: Final = ("uvicorn", "uvicorn.error")
"""Loggers that come with handlers of their own."""
ACCESS: Final = "uvicorn.access"
"""`request.answered` says more, and no query strings."""


class _Handler(logging.StreamHandler):  # type: ignore[type-arg] # generic for type checkers alone
    """Ours, to be told apart from others'."""


def configure() -> None:
    """Call once, where a process starts; again replaces it.

    Tracebacks are plain: structlog's default prints local variables, which hold keys and URLs with passwords,
    and takes seconds for it.
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
    for old in [one for one in root.handlers if isinstance(one, _Handler)]:
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
