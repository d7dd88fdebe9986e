"""The recorded columns of the `tokens` table, each declared once, as a field of `TokenColumns`.

A field determines the arrays of a batch, the copy from the device, the arrays of a finished request and the table's
column. Its suffix is its shape: T tokens, E exitable layers, X = E and the final one, K top tokens. Without the suffix,
the field's name is the column's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from eexit.plan.sweep_config import Observe

FLOAT32, INT32 = pa.float32(), pa.int32()


@dataclass(frozen=True)
class TokenColumn:
    """Declaration of a recorded column. For a column of token ids, `texts` names the column with their texts."""

    unit: str
    definition: str
    kind: pa.DataType = FLOAT32  # type of one number
    nullable: bool = False
    texts: str = ""
    observed: Sequence[Observe] = ("all", "final", "none")  # values of `record_full_depth` that record the column


def column(unit: str, definition: str, **options: Any) -> Any:
    """Return a field of `TokenColumns` that declares this `TokenColumn`."""
    return field(metadata={"column": TokenColumn(unit, definition, **options)})


@dataclass(frozen=True)
class PromptExits:
    """Exits of a prompt's tokens but the last, whose exit predicts the first generated token.

    No next token is read for them. They run together, a block at a time, until all of the block have exited; in modes
    that keep the full-depth KV cache, through all layers.
    """

    exit_layer_T: np.ndarray
    exit_score_TE: np.ndarray
    depth_T: np.ndarray  # layers up to the deepest exit of the token's block


@dataclass(frozen=True)
class TokenColumns:
    """Recorded columns of a finished request, and why it ended. Columns that were not observed are empty.

    Without prompt exits, the first token has no exit decision: it comes from the final layer of the prefill.
    """

    finish_reason: str
    prompt: PromptExits | None = field(default=None, kw_only=True)
    token_id_T: np.ndarray = column("token id", "the token that was generated", kind=INT32)
    exit_layer_T: np.ndarray = column("layer", "0-based decoder layer after which the token was read", kind=INT32)
    drafted_T: np.ndarray = column(
        "flag", "whether the token was drafted, and full depth agreed; mode draft", kind=pa.bool_()
    )
    kl_TE: np.ndarray = column(
        "nats", "KL(final || layer) of the full-depth pass, one per exitable layer in order", observed=("all",)
    )
    jsd_TE: np.ndarray = column(
        "nats",
        "Jensen–Shannon divergence of the final layer and the layer, of the full-depth pass, one per exitable layer in "
        "order; at most log 2",
        observed=("all",),
    )
    exit_prob_TX: np.ndarray = column(
        "probability",
        "the distribution the exit was drawn from: one per exitable layer, then the final layer; "
        "all on the final layer where no exit was drawn; null past the exit at layers that had a probability, which "
        "an online rule does not read",
        nullable=True,
    )
    exit_score_TE: np.ndarray = column(
        "of the rule",
        "the exit score at each exitable layer; null where the rule read none and where no exit was drawn",
        nullable=True,
    )
    logprob_T: np.ndarray = column(
        "nats", "log-probability of token_id under the full-depth model", observed=("all", "final")
    )
    exit_logprob_T: np.ndarray = column(
        "nats",
        "log-probability of token_id under the distribution it was read from, before temperature and top_p",
        nullable=True,
    )
    final_token_id_T: np.ndarray = column(
        "token id", "the full-depth model's own most likely token", observed=("all", "final"), kind=INT32
    )
    entropy_T: np.ndarray = column("nats", "entropy of the full-depth model's distribution", observed=("all", "final"))
    top_token_ids_TXK: np.ndarray = column(
        "token ids",
        "the most likely tokens of the full-depth pass read at each exitable layer, then at the final one, "
        "likeliest first; null where not recorded",
        nullable=True,
        texts="top_tokens",
        observed=("all",),
        kind=INT32,
    )
    top_prob_TXK: np.ndarray = column(
        "probability", "the probability of top_token_ids", nullable=True, observed=("all",)
    )
    exit_top_token_ids_TK: np.ndarray = column(
        "token ids",
        "the most likely tokens of the distribution that token_id was read from, likeliest first: the "
        "early-exit pass's at exit_layer in modes that alter the KV cache, else those of top_token_ids there; null "
        "where not recorded",
        nullable=True,
        texts="exit_top_tokens",
        kind=INT32,
    )
    exit_top_prob_TK: np.ndarray = column("probability", "the probability of exit_top_token_ids", nullable=True)

    @property
    def first_decided(self) -> int:
        """Index of the first token with an exit decision."""
        return 1 if self.prompt is None else 0

    @property
    def decided_exit_layer_T(self) -> np.ndarray:
        """Exit layers of the decided tokens."""
        return self.exit_layer_T[self.first_decided :]


@cache
def recorded(record_full_depth: Observe = "all") -> tuple[tuple[str, str, str, TokenColumn], ...]:
    """Return the columns that are recorded with this `record_full_depth`.

    Each has the name of its field in `TokenColumns`, its own name, its axes after T, and its declaration.
    """
    found = []
    for each in fields(TokenColumns):
        declared = each.metadata.get("column")
        if declared and record_full_depth in declared.observed:
            name, _, axes = each.name.rpartition("_")
            found.append((each.name, name, axes.removeprefix("T"), declared))
    return tuple(found)
