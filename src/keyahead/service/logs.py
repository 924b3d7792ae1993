"""Structured logs that cannot leak code: only fields on a list are written, and only lengths, counts and names of ours are on it."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

ALLOWED: Final = frozenset(
    {
        "event", "level", "timestamp", "logger", "location",
        "error_id", "error_type", "frames", "reason",
        "request_id", "method", "outcome", "source", "finish_reason", "elapsed_ms",
        "prefix_chars", "suffix_chars", "context_files", "prompt_tokens", "completion_tokens",
        "address", "metrics_address", "config", "ready", "in_flight",
    }
)  # fmt: skip
"""All that is ever written. Everything else is dropped, so a careless `log.info(text=…)` costs a field and not a secret."""


def configure(stream: TextIO = sys.stderr) -> None:
    """Write one JSON object a line to the stream, for our own events and, without their text, for those of libraries."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _only_allowed,
            structlog.processors.JSONRenderer(_to_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
    logging.root.handlers = [_LibraryHandler(logging.WARNING)]


def describe(error: BaseException) -> dict[str, object]:
    """An exception's type and where it went, without its message, which may quote what a user typed."""
    frames = [f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in traceback.extract_tb(error.__traceback__)]
    return {"error_type": type(error).__qualname__, "frames": frames}


def _only_allowed(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    return {key: value for key, value in event.items() if key in ALLOWED}


def _to_json(event: object, default: Callable[[object], object]) -> str:
    """As `json.dumps`, at a fifth of the time on the event loop."""
    return msgspec.json.encode(event, enc_hook=default).decode()


class _LibraryHandler(logging.Handler):
    """Says that a library logged, and where: its text may quote a request (asyncio and grpc print exceptions whole)."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().log(
            record.levelno,
            "library",
            logger=record.name,
            location=f"{record.module}:{record.lineno}",
            **(describe(error) if error else {}),
        )
