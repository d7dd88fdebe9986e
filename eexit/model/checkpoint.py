"""Refusals of checkpoints that are damaged or of another model.

transformers initialises weights that a checkpoint lacks at random, and ignores weights that it has no use for. Either
means that the checkpoint belongs to another model.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from eexit.errors import UsageError
from eexit.model.quantization import dtype_name, parts_of

# Attention masks that old versions of transformers saved as if they were weights; it ignores other such keys itself.
_COMPUTED = re.compile(r"(^|\.)(masked_bias|causal_mask)$")


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress transformers' progress bars and load reports: `refuse_misfit` reports the same in one line."""
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def refuse_misfit(model: str, info: Mapping[str, Collection[Any]]) -> None:
    """Raise `UsageError` if a checkpoint's keys and shapes are not exactly those of the architecture.

    `info` is the loading info that transformers returns; tied weights are not missing there.
    """
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    unexpected = sorted(key for key in info["unexpected_keys"] if not _COMPUTED.search(key))
    problems = []
    if missing:
        problems.append(f"it lacks {_counted(missing)}")
    if mismatched:
        key, there, wanted = mismatched[0]
        more = f" and {len(mismatched) - 1} more" if len(mismatched) > 1 else ""
        problems.append(f"{key} is {_shape(there)} where config.json has {_shape(wanted)}{more}")
    if unexpected:
        problems.append(f"it has {_counted(unexpected)} that the architecture has no use for")
    if problems:
        raise UsageError(
            f"model {model}: the checkpoint does not fit its config.json: {'; '.join(problems)}. "
            "The weights would be random or left out: get the whole checkpoint of one model"
        )


def refuse_not_finite(name: str, model: PreTrainedModel) -> None:
    """Raise `UsageError` for the first weight that holds NaN or infinity."""
    for path, weight in ((path, part) for path, whole in model.named_parameters() for part in parts_of(whole)):
        if not weight.is_floating_point() or weight.itemsize < 2 or not weight.numel():
            continue  # torch has no isfinite for one-byte dtypes
        # aminmax gives NaN if any number is NaN, and needs no mask as large as the weight.
        if not all(torch.isfinite(bound) for bound in torch.aminmax(weight)):
            raise UsageError(
                f"model {name}: {int((~torch.isfinite(weight)).sum()):,} of the {weight.numel():,} numbers of {path} "
                f"are NaN or infinite in {dtype_name(weight.dtype)}: get the checkpoint again, or try another --dtype"
            )


def refuse_cut_off(model: str, folder: str) -> None:
    """Raise `UsageError` if a safetensors file is shorter than its header declares."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise UsageError(f"model {model}: {path.name} is cut off or damaged ({error}): get it again") from error


def _counted(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"


def _shape(size: torch.Size) -> str:
    return " × ".join(map(str, size)) or "a single number"
