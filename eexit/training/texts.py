"""The texts that exits learn from: what the model wrote at full depth, split into training and held-out prompts.

The split goes by the prompt's text, never by token, so that it is the same for every sweep and every way to train.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from eexit.plan.configuration import NORMAL
from eexit.plan.runs import OK
from eexit.plan.splits import is_drawn
from eexit.results.files import Location
from eexit.results.landed import runs_with_tokens

_GOOD: Final = (pc.field("mode") == NORMAL) & (pc.field("status") == OK)
ONE_IN: Final = 5  # prompts is held out, and of the others as many choose options


@dataclass(frozen=True)
class Text:
    """A prompt and the answer to it, as token ids.

    Nothing is learned from texts that are `held_out`: tables are made of them. Of the others, those that `choose` are
    also used to choose options, such as the strength of a penalty.
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    held_out: bool = False
    chooses: bool = False


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is held out: one in five, by a hash of its text."""
    return is_drawn(prompt, "held out", ONE_IN)


def chooses(prompt: str) -> bool:
    """Whether a prompt that is not held out is used to choose options: one in five, by another hash of its text."""
    return not is_held_out(prompt) and is_drawn(prompt, "chooses", ONE_IN)


def read_texts(location: Location) -> list[Text]:
    """The texts of a sweep's `normal` runs that went well, in the order of prompt ids; equal ones once.

    Raises `DamagedError` for a damaged file, and `OSError`.
    """
    columns = ["prompt_id", "prompt", "mode", "status", "prompt_token_ids"]
    texts = [
        replace(text_of(run, tokens), held_out=is_held_out(run["prompt"]), chooses=chooses(run["prompt"]))
        for run, tokens in runs_with_tokens(location, columns, _GOOD, ["token_id"])
    ]
    return distinct(sorted(texts, key=lambda text: (text.prompt_id, text.token_ids)))


def text_of(run: Mapping[str, Any], tokens: pa.Table) -> Text:
    """What a run wrote, from its row and its tokens."""
    return Text(run["prompt_id"], tuple(run["prompt_token_ids"]), tuple(tokens["token_id"].to_pylist()))


def distinct(texts: Iterable[Text]) -> list[Text]:
    """The texts without repeats, which other seeds and other sweeps of the same prompts may bring."""
    return list({(text.prompt_token_ids, text.token_ids): text for text in reversed(list(texts))}.values())[::-1]


def parted(texts: Sequence[Text]) -> list[tuple[bool, list[Text]]]:
    """The texts that are learned from alone, and those that choose: whether they do, and which, if there are any."""
    parts = [(chooses, [text for text in texts if text.chooses == chooses]) for chooses in (False, True)]
    return [(chooses, part) for chooses, part in parts if part]


def n_tokens(texts: Sequence[Text]) -> int:
    """Tokens of the answers."""
    return sum(len(text.token_ids) for text in texts)


def blocks(texts: Sequence[Text], most_tokens: int) -> list[list[Text]]:
    """Successive texts together, as many as have at most so many tokens in their answers, but at least one."""
    cut: list[list[Text]] = []
    room = 0
    for text in texts:
        if len(text.token_ids) > room or not cut:
            cut.append([])
            room = most_tokens
        cut[-1].append(text)
        room -= len(text.token_ids)
    return cut
