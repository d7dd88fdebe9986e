"""A dictionary that numbers the token texts (pieces) of a report; frequent ones get small numbers."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa

UNKNOWN: Final = -1  # a token id that wasn't recorded


@dataclass(frozen=True)
class TokenDictionary:
    """Numbers in the dictionary for T tokens, with the K most likely tokens at each of X exit ranks."""

    texts: list[str | int]  # number → text, or the token id if the text isn't known
    token: np.ndarray  # T: the token
    said: np.ndarray  # T: full depth's most likely token, as 1 + number; 0 if it is the token itself
    top: np.ndarray | None  # T × (X·K): the full-depth pass's top tokens, 1 + number; 0: none. None: never recorded
    read: np.ndarray | None  # T × K: the top tokens of the distribution at the exit, likewise


def number_pieces(tokens: pa.Table) -> TokenDictionary:
    """Number the texts of the tokens: first distinct pairs of id and text, then ids that occur only among most likely
    tokens. Both are in the order of descending frequency.
    """
    ids, final_ids = (
        np.asarray(tokens[name].fill_null(UNKNOWN)).astype(np.int64) for name in ("token_id", "final_token_id")
    )
    pairs = pd.DataFrame({"id": ids, "text": tokens["token"].to_pandas()})
    grouped = pairs.groupby(["id", "text"], sort=False)
    by_frequency = grouped.size().to_numpy().argsort(kind="stable")[::-1]
    distinct = pairs.drop_duplicates().iloc[by_frequency]
    token = by_frequency.argsort()[grouped.ngroup().to_numpy()]
    texts: list[str | int] = distinct["text"].to_list()
    top_ids, read_ids = _likely_ids(tokens["top_token_ids"]), _likely_ids(tokens["exit_top_token_ids"])
    known = _likely_texts(tokens, "top") | _likely_texts(tokens, "exit_top")
    # An id can have several texts, since a multibyte character may span tokens: the most frequent one that isn't empty
    # represents the id.
    of_id = {
        i: number for number, (i, text) in reversed(list(enumerate(zip(distinct["id"], texts, strict=True)))) if text
    }
    likely = np.concatenate([final_ids, *(found.ravel() for found in (top_ids, read_ids) if found is not None)])
    n_likely = np.bincount(likely + 1)  # the first entry counts UNKNOWN
    for token_id in (n_likely[1:].argsort(kind="stable")[::-1][: np.count_nonzero(n_likely[1:])]).tolist():
        if token_id not in of_id:
            of_id[token_id] = len(texts)
            texts.append(known.get(token_id, token_id))
    table = np.zeros(max(of_id, default=0) + 2, dtype=np.int32)  # the last entry is for UNKNOWN, which is -1
    table[list(of_id)] = 1 + np.array(list(of_id.values()), dtype=np.int32)
    # Ids are compared, since an id can have several texts.
    size = np.min_scalar_type(max(len(texts), 256))  # two bytes, or four
    said = np.where((final_ids == ids) | (final_ids == UNKNOWN), 0, table[final_ids]).astype(size)
    top, read = (None if found is None else table[found].astype(size) for found in (top_ids, read_ids))
    return TokenDictionary(texts, token.astype(size), said, top, read)


def _likely_ids(column: pa.ChunkedArray) -> np.ndarray | None:
    """Return K token ids per token, all UNKNOWN where nothing was recorded; None if no token has a recording."""
    recorded = np.asarray(column.is_valid())
    if not recorded.any():
        return None
    found = np.asarray(flat(column)).reshape(recorded.sum(), -1)
    ids = np.full((len(recorded), found.shape[1]), UNKNOWN, dtype=np.int32)
    ids[recorded] = found
    return ids


def _likely_texts(tokens: pa.Table, prefix: str) -> dict[int, str]:
    """Return token id → text, for all recorded top tokens."""
    ids, texts = (flat(tokens[f"{prefix}_{name}"]) for name in ("token_ids", "tokens"))
    distinct, first = np.unique(np.asarray(ids), return_index=True)
    return dict(zip(distinct.tolist(), texts.take(first).to_pylist(), strict=True))


def flat(column: pa.ChunkedArray) -> pa.Array:
    """Return the innermost values of a column of lists, or of lists of lists."""
    values = column.combine_chunks()
    while pa.types.is_list(values.type):
        values = values.flatten()
    return values
