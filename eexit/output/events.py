"""Structured logs: one JSON object per line on standard error, with the ids of the runs that an event concerns.

They are for files and job logs; a terminal shows progress only.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from eexit.output.locations import without_secrets

LOGGER = logging.getLogger("eexit")
LOGGER.addHandler(logging.NullHandler())  # a notebook shows events only if its user adds a handler


class _JSONLinesFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = getattr(record, "fields", {})
        line = {"time": time, "level": record.levelname, "event": record.msg, **fields}
        return json.dumps(_without_secrets(line), default=str)


def _without_secrets(value: Any) -> Any:
    """Return a logged value with all URIs redacted, since the URI of results may contain secrets."""
    if isinstance(value, dict):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    return without_secrets(value) if isinstance(value, str) else value


def log_to_stderr(level: int = logging.INFO) -> None:
    """Start logging events of at least this level to standard error, once per process; do nothing on a terminal."""
    if any(isinstance(handler, logging.StreamHandler) for handler in LOGGER.handlers) or sys.stderr.isatty():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_JSONLinesFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    LOGGER.propagate = False


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    LOGGER.log(level, event, extra={"fields": fields})
