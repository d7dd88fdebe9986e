"""Early exit in language models: the engine, and the names that users of the original module know."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eexit.doors.original import (
        EarlyExitGenerator,
        KLExitGenerator,
        PredictionObject,
        get_early_exit_indices,
        load_default_model_and_tokenizer,
    )
    from eexit.doors.setting import load
    from eexit.model.chat import format_and_tokenize_input

_HOMES = {
    "EarlyExitGenerator": "eexit.doors.original",
    "KLExitGenerator": "eexit.doors.original",
    "PredictionObject": "eexit.doors.original",
    "format_and_tokenize_input": "eexit.model.chat",
    "get_early_exit_indices": "eexit.doors.original",
    "load": "eexit.doors.setting",
    "load_default_model_and_tokenizer": "eexit.doors.original",
}

__all__ = [
    "EarlyExitGenerator",
    "KLExitGenerator",
    "PredictionObject",
    "format_and_tokenize_input",
    "get_early_exit_indices",
    "load",
    "load_default_model_and_tokenizer",
]


def __getattr__(name: str) -> object:
    """Import on first use: readers of results need `eexit.results.tables`, not torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'eexit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
