"""What a step records of every row: each column is declared once, as a field of `Trace`.

From the declaration follow the arrays of a batch, the copy from the device, the trace of a row, and the columns of the
`tokens` table. The suffix of a field is its shape: T tokens, E exitable layers, X = E + 1 with the final layer last,
K top tokens. Without the suffix, the field's name is the column's name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Final, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa

from eexit.decode.costs.counting import Counts
from eexit.decode.costs.draft_rounds import Rounds
from eexit.plan.config import Observe

EOS: Final = "eos"  # why a row ended
LENGTH: Final = "length"
STOP: Final = "stop"  # no run of a sweep ends so, only rows that are given `Decoding.stops`


@dataclass(frozen=True)
class Column:
    """A recorded column. If it holds token ids, `texts` is the name of the column with the text of each."""

    kind: pa.DataType  # of one number
    unit: str
    definition: str
    nullable: bool = False
    texts: str = ""
    observed: Sequence[Observe] = ("all", "final", "none")  # the settings of `observe` with which it is recorded


@dataclass(frozen=True)
class Trace:
    """What a row generated: its recorded columns, of which those that were not observed are empty, and why it ended.

    The first token is not decided: it comes from the final layer of the prompt's full-depth pass.
    """

    finish_reason: str
    counts: Counts | None  # what was run for it; None beside a teacher, whose passes rows share
    rounds: Rounds | None  # of mode draft
    token_id_T: Annotated[np.ndarray, Column(pa.int32(), "token id", "the token that was generated")]
    exit_layer_T: Annotated[
        np.ndarray, Column(pa.int32(), "layer", "0-based decoder layer after which the token was read")
    ]
    drafted_T: Annotated[
        np.ndarray,
        Column(
            pa.bool_(), "flag", "whether the token was drafted at an early layer, and full depth agreed; mode draft"
        ),
    ]
    kl_TE: Annotated[
        np.ndarray,
        Column(
            pa.float32(),
            "nats",
            "KL(final || layer) of the full-depth pass, one per exitable layer in order",
            observed=("all",),
        ),
    ]
    exit_prob_TX: Annotated[
        np.ndarray,
        Column(
            pa.float32(),
            "probability",
            "the distribution the exit was drawn from: one per exitable layer, then the final layer; "
            "all on the final layer where no exit was drawn; null at layers past the exit that had a chance, where the "
            "rule looks no further",
            nullable=True,
        ),
    ]
    evidence_TE: Annotated[
        np.ndarray,
        Column(
            pa.float32(),
            "of the rule",
            "what the rule saw at each exitable layer; null where it looked at none and where no exit was drawn",
            nullable=True,
        ),
    ]
    logprob_T: Annotated[
        np.ndarray,
        Column(
            pa.float32(), "nats", "log-probability of token_id under the full-depth model", observed=("all", "final")
        ),
    ]
    exit_logprob_T: Annotated[
        np.ndarray,
        Column(
            pa.float32(),
            "nats",
            "log-probability of token_id under the distribution it was read from, before temperature and top_p",
            nullable=True,
        ),
    ]
    final_token_id_T: Annotated[
        np.ndarray,
        Column(pa.int32(), "token id", "the full-depth model's own most likely token", observed=("all", "final")),
    ]
    entropy_T: Annotated[
        np.ndarray,
        Column(pa.float32(), "nats", "entropy of the full-depth model's distribution", observed=("all", "final")),
    ]
    top_token_ids_TXK: Annotated[
        np.ndarray,
        Column(
            pa.int32(),
            "token ids",
            "the most likely tokens of the full-depth pass read at each exitable layer, then at the final one, "
            "likeliest first; null where not recorded",
            nullable=True,
            texts="top_tokens",
            observed=("all",),
        ),
    ]
    top_prob_TXK: Annotated[
        np.ndarray,
        Column(pa.float32(), "probability", "the probability of top_token_ids", nullable=True, observed=("all",)),
    ]
    exit_top_token_ids_TK: Annotated[
        np.ndarray,
        Column(
            pa.int32(),
            "token ids",
            "the most likely tokens of the distribution that token_id was read from, likeliest first: the student's "
            "own at exit_layer in modes that alter the state, else those of top_token_ids there; null where not "
            "recorded",
            nullable=True,
            texts="exit_top_tokens",
        ),
    ]
    exit_top_prob_TK: Annotated[
        np.ndarray, Column(pa.float32(), "probability", "the probability of exit_top_token_ids", nullable=True)
    ]


@cache
def recorded(observe: Observe = "all") -> tuple[tuple[str, str, str, Column], ...]:
    """Each column that is recorded with this `observe`: its field of `Trace`, its name, its axes after T, and its
    declaration."""
    found = []
    for attribute, kind in get_type_hints(Trace, include_extras=True).items():
        if get_origin(kind) is Annotated and observe in kind.__metadata__[0].observed:
            name, _, axes = attribute.rpartition("_")
            found.append((attribute, name, axes.removeprefix("T"), kind.__metadata__[0]))
    return tuple(found)


def token_fields() -> Iterator[pa.Field]:
    """The recorded columns of the `tokens` table, each followed by the column with the texts of its ids, if any."""
    for _, name, axes, column in recorded():
        left_out = [each for each in get_args(Observe) if each not in column.observed]
        when = f"; null with --observe {' or '.join(left_out)}" if left_out else ""
        is_nullable = column.nullable or bool(left_out)
        yield described(name, nested(column.kind, axes), column.unit, f"{column.definition}{when}", is_nullable)
        if column.texts:
            yield described(column.texts, nested(pa.string(), axes), "text", f"the text of {name}, each by itself")


def nested(kind: pa.DataType, axes: str) -> pa.DataType:
    """Nested lists of `kind`, one level per axis."""
    for _ in axes:
        kind = pa.list_(kind)
    return kind


def described(name: str, kind: pa.DataType, unit: str, definition: str, nullable: bool = True) -> pa.Field:
    """A column of a table, with its unit and meaning as metadata."""
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "definition": definition})
