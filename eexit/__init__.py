"""Early exit in language models: the engine, and the names that users of the original module know."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eexit.chat import format_and_tokenize_input
    from eexit.models import load_default_model_and_tokenizer
    from eexit.single import EarlyExitGenerator, KLExitGenerator, PredictionObject, get_early_exit_indices

_HOMES = {
    "EarlyExitGenerator": "eexit.single",
    "KLExitGenerator": "eexit.single",
    "PredictionObject": "eexit.single",
    "format_and_tokenize_input": "eexit.chat",
    "get_early_exit_indices": "eexit.single",
    "load_default_model_and_tokenizer": "eexit.models",
}

__all__ = [
    "EarlyExitGenerator",
    "KLExitGenerator",
    "PredictionObject",
    "format_and_tokenize_input",
    "get_early_exit_indices",
    "load_default_model_and_tokenizer",
]


def __getattr__(name: str) -> object:
    """Import on first use: readers of results need `eexit.schema`, not torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'eexit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
