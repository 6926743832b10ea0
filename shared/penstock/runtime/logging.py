"""Logging to stderr: console format on a terminal, JSON lines otherwise, also for the stdlib's loggers.

A log must hold no secrets: tracebacks do not show local variables, and URLs are logged without credentials.
"""

import logging
import sys
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from penstock.bus.request_id import request_id
from penstock.runtime.settings import Settings
from penstock.urls import redact

Log = structlog.stdlib.BoundLogger

QUIET: Final = {"nats": logging.WARNING, "redis": logging.WARNING, "asyncio": logging.WARNING}
"""The least level at which these chatty libraries are logged."""


def without_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Remove user and password from every URL in the values of a log event."""
    for key, value in event.items():
        if isinstance(value, str) and "://" in value and "@" in value:
            event[key] = " ".join(redact(word) if "://" in word else word for word in value.split(" "))
    return event


def with_request_id(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add the id of the request that the line is about, if it is about one."""
    found = request_id()
    if found is not None:
        event.setdefault("request_id", found)
    return event


_SHARED: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    with_request_id,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,  # to text now: a renderer might add local variables
    without_secrets,
]


def logger(service: str, instance: str) -> Log:
    """Return the logger of one service. It works without `configure` too, with the stdlib's levels and handlers."""
    return structlog.wrap_logger(
        logging.getLogger(f"penstock.{service.replace('-', '_')}"),
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        service=service,
        instance=instance,
    )


def configure(service: str, settings: Settings) -> None:
    """Send all log records of this process to stderr. For a process that runs one service."""
    terminal = sys.stderr.isatty()
    console = settings.log_format == "console" or (settings.log_format == "auto" and terminal)
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )

    def add_context(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        event.setdefault("instance", settings.instance)
        return event

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, add_context],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(max(level, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
