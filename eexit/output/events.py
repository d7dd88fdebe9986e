"""Structured logs: one JSON object per line on standard error, with the ids of the runs that an event is about.

They go to files and job logs; on a terminal, only progress is shown.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from eexit.output.locations import without_secrets

LOGGER = logging.getLogger("eexit")
LOGGER.addHandler(logging.NullHandler())  # in a notebook, whoever wants events adds a handler


class _OneObjectALine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = getattr(record, "fields", {})
        line = {"time": time, "level": record.levelname, "event": record.msg, **fields}
        return json.dumps(_without_secrets(line), default=str)


def _without_secrets(value: Any) -> Any:
    """Logged values may contain the URI of the results, with secrets in it."""
    if isinstance(value, dict):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    return without_secrets(value) if isinstance(value, str) else value


def log_to_stderr(level: int = logging.INFO) -> None:
    """Start logging events of at least this level; has an effect once per process, and not on a terminal."""
    if any(isinstance(handler, logging.StreamHandler) for handler in LOGGER.handlers) or sys.stderr.isatty():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_OneObjectALine())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    LOGGER.propagate = False


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    LOGGER.log(level, event, extra={"fields": fields})
