"""Logging: structlog to standard output, for people on a terminal and as JSON under systemd."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from streamrecon.config.model import LogConfig


class _Handler(logging.StreamHandler[TextIO]):
    """Drops lines that cannot be written: the disk is full, or whoever read them has gone; the session goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def wants_json(config: LogConfig, stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return True if log lines are for a program: so configured, under systemd, or not on a terminal."""
    if config.format != "auto":
        return config.format == "json"
    if "JOURNAL_STREAM" in environment or "INVOCATION_ID" in environment:
        return True
    return not stream.isatty()


def set_log_level(level: str) -> None:
    """Say from now on only what is at least that important: "debug", "info", "warning" or "error"."""
    logging.getLogger().setLevel(level.upper())


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    structlog.get_logger(__name__).critical("crashed", reason=repr(error), exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value
    if error is not None:
        _log_uncaught(arguments.exc_type, error, arguments.exc_traceback)


def configure_logging(config: LogConfig, process: str) -> None:
    """Set up logging for this process; call it once, before anything is logged.

    Parameters
    ----------
    config : LogConfig
    process : str
        Put on every line: "run", "ingest", "worker".

    Notes
    -----
    Everything goes to standard output, one line an entry, times in UTC (ISO 8601). The standard library's
    logging goes the same way, so that the lines of libraries look like ours, and so does what ends the program or a
    thread unforeseen (``crashed``). Without a standard output nothing is said.
    """

    def name_process(_logger: object, _method: str, entry: EventDict) -> EventDict:
        # not a context variable: each thread would begin without
        entry["process"] = process
        return entry

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    stream: TextIO | None = sys.stdout
    if stream is None or wants_json(config, stream, os.environ):
        render: list[Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        render = [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    handler = logging.NullHandler() if stream is None else _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_log_level(config.level)
    structlog.configure(
        # the level is asked of the standard library, line by line: it may change while we run
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    sys.excepthook = _log_uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_uncaught_in_thread
