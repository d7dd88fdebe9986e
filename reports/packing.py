"""Tokens → bytes: byte columns, gzip, base64, one blob per prompt, decoded by `template/data.js`.

Core, per run: piece number (3 byte planes, low first), exit rank (high bit: the exit wasn't drawn).
Detail, per run: KL per exitable layer, exit probability per exitable layer and final, −logprob, entropy, and the piece
that full depth would have said (3 byte planes of 1 + piece number, 0: the same as the token). KL, −logprob and entropy
are in steps of 4 % from 2^-10 to 2^5 nats, probabilities in steps of 1/255: enough to read, small enough to send.
"""

import base64
import gzip
import json
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from reports.sweep import Sweep

LOG2_LOW: Final = -10.0
LOG2_HIGH: Final = 5.0
_NOT_DRAWN: Final = 128
_UNKNOWN: Final = -1  # a token id that wasn't recorded


@dataclass(frozen=True)
class Packed:
    """Blobs in the order of `Sweep.prompts`; `detail` is empty where only exits were recorded."""

    pieces: str  # a JSON list: text of each piece, or the token id as a number where its text isn't known
    core: list[str]
    detail: list[str]


def pack(sweep: Sweep) -> Packed:
    """Every token of the sweep; rows of `sweep.tokens` are in run order."""
    tokens = sweep.tokens
    pieces, piece, final_piece = _pieces(tokens)
    ranks = {layer: rank for rank, layer in enumerate(sweep.exitable_layers)}
    rank = tokens["exit_layer"].map(ranks).fillna(len(ranks)).to_numpy(dtype=np.uint8)
    rank = rank + np.where(tokens["decided"].to_numpy(dtype=bool), 0, _NOT_DRAWN).astype(np.uint8)
    core_columns = [*_planes(piece), rank]
    detail_columns: list[np.ndarray] = []
    if sweep.kl is not None and sweep.exit_prob is not None:
        detail_columns = _detail(sweep, sweep.kl, sweep.exit_prob, piece, final_piece)
    core, detail = [], []
    starts = _starts(sweep)
    for prompt_id in sweep.prompts:
        runs = starts.get(prompt_id, [])
        core.append(_blob([column[a:b] for a, b in runs for column in core_columns]))
        if detail_columns:
            detail.append(_blob([column[a:b] for a, b in runs for column in detail_columns]))
    return Packed(_squeeze(json.dumps(pieces).encode()), core, detail)


def token_counts(sweep: Sweep) -> pd.Series:
    """Recorded tokens per run, in the order of `sweep.generations`; what the page needs to cut the blobs."""
    counts = sweep.tokens["run_id"].value_counts()
    return sweep.generations["run_id"].map(counts).fillna(0).astype(int)


def encode_log(values: np.ndarray) -> np.ndarray:
    """Non-negative numbers as bytes, even steps of log2; 0 is anything below 2^-10."""
    with np.errstate(divide="ignore"):
        place = (np.log2(values.clip(min=0)) - LOG2_LOW) / (LOG2_HIGH - LOG2_LOW)
    return np.where(place < 0, 0, 1 + np.round(place.clip(0, 1) * 254)).astype(np.uint8)


def squeeze_text(text: str) -> str:
    return _squeeze(text.encode())


def _detail(
    sweep: Sweep, kl: np.ndarray, exit_prob: np.ndarray, piece: np.ndarray, final_piece: np.ndarray
) -> list[np.ndarray]:
    said = np.where(final_piece == piece, 0, final_piece + 1)
    return [
        *encode_log(kl).T,
        *np.round(exit_prob * 255).astype(np.uint8).T,
        encode_log(-sweep.tokens["logprob"].to_numpy(dtype=float)),
        encode_log(sweep.tokens["entropy"].to_numpy(dtype=float)),
        *_planes(said),
    ]


def _pieces(tokens: pd.DataFrame) -> tuple[list[str | int], np.ndarray, np.ndarray]:
    """Distinct (token id, text) pairs by falling frequency; each token's pair, and that of full depth's choice."""
    ids, final_ids = (_ids(tokens[name]) for name in ("token_id", "final_token_id"))
    pairs = pd.DataFrame({"id": ids, "text": tokens["token"]})
    grouped = pairs.groupby(["id", "text"], sort=False)
    by_frequency = grouped.size().to_numpy().argsort(kind="stable")[::-1]
    distinct = pairs.drop_duplicates().iloc[by_frequency]
    number_of = np.empty(len(by_frequency), dtype=np.int64)
    number_of[by_frequency] = np.arange(len(by_frequency))
    piece = number_of[grouped.ngroup().to_numpy()]
    pieces: list[str | int] = distinct["text"].to_list()
    # Several texts of one id (multibyte characters): the most frequent stands for the id.
    of_id = {token_id: number for number, token_id in reversed(list(enumerate(distinct["id"])))}
    for token_id in final_ids.unique():
        if token_id not in of_id:
            of_id[token_id] = len(pieces)
            pieces.append(int(token_id))
    # A token that is its id's rarer text is still what full depth would have said.
    same = ((final_ids == ids) | (final_ids == _UNKNOWN)).to_numpy()
    return pieces, piece, np.where(same, piece, final_ids.map(of_id).to_numpy(dtype=np.int64))


def _ids(column: pd.Series) -> pd.Series:
    return column.astype(float).fillna(_UNKNOWN).astype(np.int64)


def _planes(numbers: np.ndarray) -> list[np.ndarray]:
    return [((numbers >> shift) & 255).astype(np.uint8) for shift in (0, 8, 16)]


def _starts(sweep: Sweep) -> dict[str, list[tuple[int, int]]]:
    """Per prompt the first and last row of each of its runs that has tokens."""
    counts = token_counts(sweep).to_numpy()
    ends = counts.cumsum()
    starts: dict[str, list[tuple[int, int]]] = {}
    for prompt_id, start, end in zip(sweep.generations["prompt_id"], ends - counts, ends, strict=True):
        if end > start:
            starts.setdefault(prompt_id, []).append((int(start), int(end)))
    return starts


def _blob(columns: list[np.ndarray]) -> str:
    return _squeeze(b"".join(column.tobytes() for column in columns))


def _squeeze(content: bytes) -> str:
    # mtime: the same results give the same file.
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
