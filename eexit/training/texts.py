"""Full-depth texts for training, split into training, validation and held-out prompts.

The split depends on the prompt's text alone, so that it is the same for every sweep and every kind of training.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from eexit.plan.configuration import NORMAL
from eexit.plan.runs import OK
from eexit.plan.splits import is_drawn
from eexit.results.committed import runs_with_tokens
from eexit.results.parquet_files import StoreLocation

_GOOD: Final = (pc.field("mode") == NORMAL) & (pc.field("status") == OK)
ONE_IN: Final = 5  # prompts is held out; of the others, one in five is for validation


@dataclass(frozen=True)
class TrainingText:
    """A prompt and its answer, as token ids.

    Texts that are `held_out` are for reported figures only. Of the other texts, `chooses` marks the validation split,
    by which options such as a penalty are chosen.
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    held_out: bool = False
    chooses: bool = False


def is_held_out(prompt: str) -> bool:
    """Return True if a hash of the prompt's text assigns it to the held-out split: one in five prompts."""
    return is_drawn(prompt, "held out", ONE_IN)


def chooses(prompt: str) -> bool:
    """Return True if a prompt that is not held out is in the validation split: by a second hash, one in five is."""
    return not is_held_out(prompt) and is_drawn(prompt, "chooses", ONE_IN)


def read_texts(location: StoreLocation) -> list[TrainingText]:
    """Return the distinct texts of a sweep's `normal` runs without an error, in the order of prompt ids.

    Raise `DamagedError` for a damaged file, and `OSError`.
    """
    columns = ["prompt_id", "prompt", "mode", "status", "prompt_token_ids"]
    texts = [
        replace(text_from_run(run, tokens), held_out=is_held_out(run["prompt"]), chooses=chooses(run["prompt"]))
        for run, tokens in runs_with_tokens(location, columns, _GOOD, ["token_id"])
    ]
    return distinct(sorted(texts, key=lambda text: (text.prompt_id, text.token_ids)))


def text_from_run(run: Mapping[str, Any], tokens: pa.Table) -> TrainingText:
    """Return a run's text, from its row and its tokens."""
    return TrainingText(run["prompt_id"], tuple(run["prompt_token_ids"]), tuple(tokens["token_id"].to_pylist()))


def distinct(texts: Iterable[TrainingText]) -> list[TrainingText]:
    """Remove repeated texts, which several seeds or sweeps of the same prompts may contain."""
    return list({(text.prompt_token_ids, text.token_ids): text for text in reversed(list(texts))}.values())[::-1]


def parted(texts: Sequence[TrainingText]) -> list[tuple[bool, list[TrainingText]]]:
    """Return the training texts as (False, texts) and the validation texts as (True, texts), without an empty split."""
    parts = [(chooses, [text for text in texts if text.chooses == chooses]) for chooses in (False, True)]
    return [(chooses, part) for chooses, part in parts if part]


def n_tokens(texts: Sequence[TrainingText]) -> int:
    """Return the number of answer tokens."""
    return sum(len(text.token_ids) for text in texts)


def blocks(texts: Sequence[TrainingText], most_tokens: int) -> list[list[TrainingText]]:
    """Group successive texts into blocks of at most `most_tokens` answer tokens, but at least one text."""
    cut: list[list[TrainingText]] = []
    room = 0
    for text in texts:
        if len(text.token_ids) > room or not cut:
            cut.append([])
            room = most_tokens
        cut[-1].append(text)
        room -= len(text.token_ids)
    return cut
