"""How this installation's processes log: JSON lines on standard error, readable text on a terminal."""

import sys

import structlog


def configure() -> None:
    """Call once, where a process starts.

    Tracebacks are plain: structlog's default prints local variables, which hold keys and URLs with passwords,
    and takes seconds for it.
    """
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        processors.append(structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(processors=processors, logger_factory=structlog.WriteLoggerFactory(sys.stderr))
