"""Early exit in language models: sweeps, packages with one setting, and the names of the original module.

eexit/README.md defines this project's words, such as decided token, read and control, in the section Words.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

for _name in ("torchao", "torch.utils._pytree"):  # transformers imports torchao, which warns about other GPUs' kernels
    logging.getLogger(_name).setLevel(logging.ERROR)

if TYPE_CHECKING:
    from eexit.custom_generate.original import (
        EarlyExitGenerator,
        KLExitGenerator,
        PredictionObject,
        get_early_exit_indices,
        load_default_model_and_tokenizer,
    )
    from eexit.custom_generate.setting import load
    from eexit.method.modes import mode
    from eexit.method.rules import rule
    from eexit.model.chat import format_and_tokenize_input
    from eexit.studies.comparison.comparison import compare
    from eexit.sweeps.api import open as open
    from eexit.sweeps.api import sweep
    from eexit.sweeps.sweep_results import SweepResults

_HOMES = {
    "EarlyExitGenerator": "eexit.custom_generate.original",
    "KLExitGenerator": "eexit.custom_generate.original",
    "PredictionObject": "eexit.custom_generate.original",
    "compare": "eexit.studies.comparison.comparison",
    "format_and_tokenize_input": "eexit.model.chat",
    "get_early_exit_indices": "eexit.custom_generate.original",
    "load": "eexit.custom_generate.setting",
    "load_default_model_and_tokenizer": "eexit.custom_generate.original",
    "open": "eexit.sweeps.api",
    "rule": "eexit.method.rules",
    "mode": "eexit.method.modes",
    "sweep": "eexit.sweeps.api",
    "SweepResults": "eexit.sweeps.sweep_results",
}

# Without `open`: `import *` would replace Python's built-in.
__all__ = [
    "EarlyExitGenerator", "KLExitGenerator", "PredictionObject", "SweepResults", "compare", "format_and_tokenize_input",
    "get_early_exit_indices", "load", "load_default_model_and_tokenizer", "mode", "rule", "sweep",
]  # fmt: skip


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Return a public name, imported on first use so that readers of results do not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'eexit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
