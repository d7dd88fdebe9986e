"""Tokens as compact bytes for the page: columns, compressed with gzip and written as base64.

Each prompt has one blob of every kind below, decoded by `template/data.js`. T is the number of tokens of the prompt,
its runs one after the other; E the number of exitable layers; R = E + 1 the number of exit ranks; K the number of
recorded top tokens. A piece is the text of a token, given by its number in the dictionary of `pieces.py`.

core      the exit rank of each token, two in a byte (one if R > 16), then its piece (T numbers)
disagree  T bits, lowest bit of a byte first: 1 where a decided token isn't the most likely one of full depth
drafted   T bits likewise: 1 where a token was drafted at an early layer
kl        T rows of E bytes: the KL on a logarithmic scale, see `encode_log`
prob      T rows of E bytes: exit probabilities in hundredths, which sum to 100 with that of the final layer
evidence  what the rule saw, T rows of E numbers in half precision: all of their high bytes, then all of their low ones.
          NaN where it looked at nothing, and in configurations whose rule looks at the KLs above
more      T bytes of −logprob and T bytes of entropy on the same logarithmic scale, then the most likely token of full
          depth (T numbers: 1 + piece, or 0 if it is the token itself)
read      the K most likely tokens of the distribution that the token was read from, as K columns of T numbers
          (1 + piece, or 0 for none), then K columns of their probabilities in steps of 1/255
top       the same for full depth read at each exit rank, as R × K columns each

A number takes one byte below 128, two bytes up to 32,639, and otherwise four. All first bytes come first, then all
second bytes of two-byte numbers, then the rest.
"""

import base64
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reports.page.pieces import Pieces, flat, number_pieces
from reports.read.sweep import Sweep, disagreeing

KINDS: Final = ("core", "disagree", "drafted", "kl", "prob", "more", "evidence", "read", "top")
KL: Final = "kl"
OWN: Final = "evidence"
LOG2_LOW: Final = -10.0
LOG2_HIGH: Final = 6.0
LOG_STEPS: Final = 126  # neighbouring values differ by 9 %: accurate enough to read, and small enough for a file
COLUMNS: Final = (
    "run_id",
    "position",
    "decided",
    "token_id",
    "token",
    "exit_layer",
    "final_token_id",
    "kl",
    "exit_prob",
    "evidence",
    "drafted",
    "logprob",
    "entropy",
    "top_token_ids",
    "top_tokens",
    "top_prob",
    "exit_top_token_ids",
    "exit_top_tokens",
    "exit_top_prob",
)


@dataclass(frozen=True)
class Packed:
    """The encoded tokens of the prompts that the page holds."""

    pieces: str  # an encoded JSON list: the text of each piece, or a token id (a number) whose text isn't known
    blobs: dict[str, list[str]]  # kind → one blob per prompt; only kinds that were recorded
    n: list[int]  # number of recorded tokens of each run
    undrawn: list[int]  # how many of its first tokens had no exit drawn
    top_k: int  # K
    saw: dict[
        str, str
    ]  # configuration → KL or OWN, the kind that has what its rule saw; without those that saw nothing


def pack(sweep: Sweep, runs: pd.DataFrame, prompt_ids: Sequence[str]) -> Packed:
    """Encode the tokens of `runs`, which are all runs of these prompts, in the same order."""
    tokens = _read(sweep, runs, prompt_ids)
    run_ids = tokens["run_id"].to_pandas()
    n, undrawn = (
        ids.value_counts().reindex(runs["run_id"], fill_value=0)
        for ids in (run_ids, run_ids[~np.asarray(tokens["decided"].fill_null(True))])
    )
    pieces = number_pieces(tokens)
    columns = _columns(sweep, tokens, pieces)
    keys = run_ids.map(dict(zip(runs["run_id"], runs["configuration"], strict=True))).to_numpy()
    evidence, saw = _evidence(tokens, keys, len(sweep.exitable_layers))
    if OWN in saw.values():
        columns[OWN] = lambda at: encode_halves(evidence[at])
    per_prompt = n.groupby(runs["prompt_id"].to_numpy()).sum().reindex(prompt_ids, fill_value=0)
    ends = per_prompt.cumsum().tolist()
    stretches = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    blobs = {kind: [squeeze(column(at)) for at in stretches] for kind, column in columns.items()}
    top_k = 0 if pieces.top is None else pieces.top.shape[1] // (len(sweep.exitable_layers) + 1)
    return Packed(squeeze(json.dumps(pieces.texts).encode()), blobs, n.tolist(), undrawn.tolist(), top_k, saw)


def encode_log(values: np.ndarray) -> np.ndarray:
    """Non-negative numbers as bytes, in equal steps of log2 from 2^-10 to 2^6. The byte 0 is anything below 2^-10."""
    with np.errstate(divide="ignore"):
        share = (np.log2(np.nan_to_num(values).clip(min=0)) - LOG2_LOW) / (LOG2_HIGH - LOG2_LOW)
    return np.where(share < 0, 0, 1 + np.round(share.clip(0, 1) * LOG_STEPS)).astype(np.uint8)


def encode_probabilities(probabilities_TX: np.ndarray) -> np.ndarray:
    """The rows in hundredths, without the last column. Each row must sum to 1.

    The encoded values are differences of the rounded cumulative sums, so that each is off by at most a hundredth, and
    the last column can be restored as the rest to 100.
    """
    known_TX = np.nan_to_num(probabilities_TX[:, :-1])  # those that nobody looked at are part of the rest
    hundredths = np.round(100 * np.cumsum(known_TX, axis=1, dtype=np.float64)).clip(0, 100)
    return np.diff(hundredths, axis=1, prepend=0).clip(min=0).astype(np.uint8)


def encode_halves(values: np.ndarray) -> bytes:
    """Numbers in half precision: their high bytes, then their low ones, which compress better apart."""
    halves = values.astype(np.float16).view(np.uint16).ravel()
    return b"".join((halves >> shift & 255).astype(np.uint8).tobytes() for shift in (8, 0))


def encode_numbers(numbers: np.ndarray) -> bytes:
    """Numbers below 2^24 in the variable-length code that the top of this file describes."""
    two, long = (numbers >= 128) & (numbers < 128 + (127 << 8)), numbers >= 128 + (127 << 8)
    first = np.where(long, 255, np.where(two, 128 + ((numbers - 128) >> 8), numbers))
    rest = [numbers[long] >> shift for shift in (0, 8, 16)]
    return b"".join((part & 255).astype(np.uint8).tobytes() for part in (first, numbers[two] - 128, *rest))


def encode_flags(flags: np.ndarray) -> bytes:
    return np.packbits(flags, bitorder="little").tobytes()


def encode_ranks(ranks: np.ndarray, n_ranks: int) -> bytes:
    if n_ranks > 16:
        return ranks.tobytes()
    even = np.append(ranks, np.uint8(0)) if len(ranks) % 2 else ranks
    packed: np.ndarray = (even[::2] | even[1::2] << 4).astype(np.uint8)
    return packed.tobytes()


def squeeze(content: bytes) -> str:
    # A fixed mtime, so that the same results give the same file.
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _read(sweep: Sweep, runs: pd.DataFrame, prompt_ids: Sequence[str]) -> pa.Table:
    """The tokens of `runs`, sorted by run and position."""
    some = (
        None if len(prompt_ids) == len(sweep.prompts) else pc.field("prompt_id").isin(pa.array(prompt_ids, pa.string()))
    )
    tokens = sweep.tokens.to_table(columns=list(COLUMNS), filter=some)
    run = pd.Index(runs["run_id"]).get_indexer(tokens["run_id"].to_pandas())
    order = np.lexsort((np.asarray(tokens["position"]), run))
    return tokens.take(order[(run < 0).sum() :]).combine_chunks()


def _columns(sweep: Sweep, tokens: pa.Table, pieces: Pieces) -> dict[str, Callable[[slice], bytes]]:
    """For each kind that was recorded, a function that encodes a slice of the tokens."""
    ranks = {layer: rank for rank, layer in enumerate(sweep.exitable_layers)}
    rank = tokens["exit_layer"].to_pandas().map(ranks).fillna(len(ranks)).to_numpy(dtype=np.uint8)
    found: dict[str, Callable[[slice], bytes]] = {
        "core": lambda at: encode_ranks(rank[at], len(ranks) + 1) + encode_numbers(pieces.token[at])
    }
    if len(tokens) and not tokens["final_token_id"].null_count:
        disagree = disagreeing(tokens)
        found["disagree"] = lambda at: encode_flags(disagree[at])
    drafted = np.asarray(tokens["drafted"].fill_null(False))
    if drafted.any():
        found["drafted"] = lambda at: encode_flags(drafted[at])
    if len(tokens) and ranks and not tokens["kl"].null_count:
        kl = encode_log(np.asarray(tokens["kl"].combine_chunks().flatten()).reshape(len(tokens), len(ranks)))
        found["kl"] = lambda at: kl[at].tobytes()
    if len(tokens) and ranks and not tokens["exit_prob"].null_count:
        stored = np.asarray(tokens["exit_prob"].combine_chunks().flatten()).reshape(len(tokens), len(ranks) + 1)
        prob = encode_probabilities(stored)
        found["prob"] = lambda at: prob[at].tobytes()
    if len(tokens) and not tokens["logprob"].null_count:
        logprob, entropy = encode_log(-np.asarray(tokens["logprob"])), encode_log(np.asarray(tokens["entropy"]))
        found["more"] = lambda at: logprob[at].tobytes() + entropy[at].tobytes() + encode_numbers(pieces.said[at])
    if pieces.read is not None:
        found["read"] = _likely(pieces.read, tokens["exit_top_prob"])
    if pieces.top is not None:
        found["top"] = _likely(pieces.top, tokens["top_prob"])
    return found


def _evidence(tokens: pa.Table, keys: np.ndarray, n_layers: int) -> tuple[np.ndarray, dict[str, str]]:
    """What the rule of each token's configuration saw, as T × E numbers, and where it is for each configuration.

    `keys` are the tokens' configurations. Where a rule looks at the recorded KLs, there is no need to store them twice.
    """
    evidence = _rows(tokens["evidence"], n_layers)
    looked = ~np.isnan(evidence)
    kl = _rows(tokens["kl"], n_layers)
    differs = pd.Series((looked & (evidence != kl)).any(axis=1)).groupby(keys).any()
    known = pd.Series(looked.any(axis=1)).groupby(keys).any()
    saw = {str(key): OWN if differs[key] else KL for key in known.index[known]}
    evidence[pd.Series(keys).map(saw).ne(OWN).to_numpy()] = np.nan
    return evidence, saw


def _rows(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A column of lists as rows of `width` numbers, NaN where there is none."""
    rows = np.full((len(column), width), np.nan, dtype=np.float32)
    recorded = np.asarray(column.is_valid())
    if recorded.any() and width:
        rows[recorded] = np.asarray(flat(column)).reshape(-1, width)
    return rows


def _likely(numbers: np.ndarray, probabilities: pa.ChunkedArray) -> Callable[[slice], bytes]:
    """Encodes columns of pieces, then as many columns of their probabilities in steps of 1/255; 0 if not recorded."""
    probability = np.zeros(numbers.shape, dtype=np.uint8)
    recorded = np.asarray(probabilities.is_valid())
    probability[recorded] = np.round(np.asarray(flat(probabilities)) * 255).reshape(-1, numbers.shape[1])
    return lambda at: encode_numbers(numbers[at].T.ravel()) + probability[at].T.tobytes()
