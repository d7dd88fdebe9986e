"""The columns of the `tokens` table that a step records: each is declared once, as a field of `TokenColumns`.

From the field follow the arrays of a batch, the copy from the device, what a row has in the end, and the column of the
table. The suffix of a field is its shape: T tokens, E exitable layers, X = E + 1 with the final layer last, K top
tokens. Without the suffix, the field's name is the column's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from eexit.plan.config import Observe


@dataclass(frozen=True)
class Column:
    """A recorded column. If it holds token ids, `texts` is the name of the column with the text of each."""

    kind: pa.DataType  # of one number
    unit: str
    definition: str
    nullable: bool = False
    texts: str = ""
    observed: Sequence[Observe] = ("all", "final", "none")  # the settings of `observe` with which it is recorded


def column(kind: pa.DataType, unit: str, definition: str, **options: Any) -> Any:
    """A field of `TokenColumns` that is this `Column`."""
    return field(metadata={"column": Column(kind, unit, definition, **options)})


@dataclass(frozen=True)
class TokenColumns:
    """What a row generated: its recorded columns, of which those that were not observed are empty, and why it ended.

    The first token is not decided: it comes from the final layer of the prompt's full-depth pass.
    """

    finish_reason: str
    token_id_T: np.ndarray = column(pa.int32(), "token id", "the token that was generated")
    exit_layer_T: np.ndarray = column(pa.int32(), "layer", "0-based decoder layer after which the token was read")
    drafted_T: np.ndarray = column(
        pa.bool_(), "flag", "whether the token was drafted, and full depth agreed; mode draft"
    )
    kl_TE: np.ndarray = column(
        pa.float32(),
        "nats",
        "KL(final || layer) of the full-depth pass, one per exitable layer in order",
        observed=("all",),
    )
    exit_prob_TX: np.ndarray = column(
        pa.float32(),
        "probability",
        "the distribution the exit was drawn from: one per exitable layer, then the final layer; "
        "all on the final layer where no exit was drawn; null at layers past the exit that had a chance, where the "
        "rule looks no further",
        nullable=True,
    )
    evidence_TE: np.ndarray = column(
        pa.float32(),
        "of the rule",
        "what the rule saw at each exitable layer; null where it looked at none and where no exit was drawn",
        nullable=True,
    )
    logprob_T: np.ndarray = column(
        pa.float32(), "nats", "log-probability of token_id under the full-depth model", observed=("all", "final")
    )
    exit_logprob_T: np.ndarray = column(
        pa.float32(),
        "nats",
        "log-probability of token_id under the distribution it was read from, before temperature and top_p",
        nullable=True,
    )
    final_token_id_T: np.ndarray = column(
        pa.int32(), "token id", "the full-depth model's own most likely token", observed=("all", "final")
    )
    entropy_T: np.ndarray = column(
        pa.float32(), "nats", "entropy of the full-depth model's distribution", observed=("all", "final")
    )
    top_token_ids_TXK: np.ndarray = column(
        pa.int32(),
        "token ids",
        "the most likely tokens of the full-depth pass read at each exitable layer, then at the final one, "
        "likeliest first; null where not recorded",
        nullable=True,
        texts="top_tokens",
        observed=("all",),
    )
    top_prob_TXK: np.ndarray = column(
        pa.float32(), "probability", "the probability of top_token_ids", nullable=True, observed=("all",)
    )
    exit_top_token_ids_TK: np.ndarray = column(
        pa.int32(),
        "token ids",
        "the most likely tokens of the distribution that token_id was read from, likeliest first: the student's "
        "own at exit_layer in modes that alter the state, else those of top_token_ids there; null where not "
        "recorded",
        nullable=True,
        texts="exit_top_tokens",
    )
    exit_top_prob_TK: np.ndarray = column(
        pa.float32(), "probability", "the probability of exit_top_token_ids", nullable=True
    )


@cache
def recorded(observe: Observe = "all") -> tuple[tuple[str, str, str, Column], ...]:
    """Each column that is recorded with this `observe`: its field of `TokenColumns`, its name, its axes after T, and
    its declaration."""
    found = []
    for each in fields(TokenColumns):
        declared = each.metadata.get("column")
        if declared and observe in declared.observed:
            name, _, axes = each.name.rpartition("_")
            found.append((each.name, name, axes.removeprefix("T"), declared))
    return tuple(found)
