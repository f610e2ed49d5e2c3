"""structlog, set up once a process: an event name plus fields, JSON lines unless on a terminal.

Never raw data, never a parameter value, never a secret.
"""

import logging
import sys
from typing import Literal, TextIO, cast

import structlog

__all__ = ["LogLevel", "set_up_logs"]

LogLevel = Literal["debug", "info", "warning", "error"]


class _StandardError:
    """Standard error as it is when a line is written: a logger outlives what a test or a notebook puts there."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def set_up_logs(level: LogLevel = "info", *, stream: TextIO | None = None, as_json: bool | None = None) -> None:
    """Send every log line to `stream`.

    Args:
        level: lines below it cost next to nothing.
        stream: standard error by default, so that standard output stays for results.
        as_json: None: JSON unless `stream` is a terminal.
    """
    out = stream or cast(TextIO, _StandardError())  # the part of one that a logger uses
    threshold = logging.getLevelNamesMapping()[level.upper()]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if (as_json if as_json is not None else not out.isatty())
        else structlog.dev.ConsoleRenderer(pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
