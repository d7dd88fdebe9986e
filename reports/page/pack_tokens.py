"""Tokens as compact bytes for the page: columns of numbers, each compressed with gzip and written as base64.

Each prompt has one blob per kind below, decoded by `template/data.js`. Its runs follow one another. A piece is the text
of a token, given by its number in a dictionary.

Shapes: T tokens of a prompt, E exitable layers, X = E + 1 exit ranks, K recorded top tokens, W numbers per token.

core      for each token: 4 · exit rank, + 2 if it was drafted at an early layer, + 1 if it was decided and is not
          full depth's most likely token; and its piece
kl        E per token: the KL on a logarithmic scale, see `encode_log`
prob      E per token: exit probabilities in hundredths; with the final layer's they sum to 100
exit_score  E per token: the exit scores; NaN where the rule computed none, and in configurations whose scores are
          the KLs above
more      −logprob and entropy on the same logarithmic scale, and full depth's most likely token (1 + piece, or 0 if it
          is the token itself)
read      the K most likely tokens of the distribution at the exit (1 + piece, or 0 for none), and their probabilities
          in steps of 1/255
top       the same for the full-depth pass at each exit rank: X × K per token
"""

import base64
import gzip
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.quality.thinking import ANSWER
from reports.page.token_dictionary import TokenDictionary, flat, number_pieces
from reports.read.sweep import Sweep, disagreeing

KINDS: Final = ("core", "kl", "prob", "more", "exit_score", "read", "top")
KL: Final = "kl"
OWN: Final = "exit_score"
LOG2_LOW: Final = -10.0
LOG2_HIGH: Final = 6.0
LOG_STEPS: Final = 126  # neighbouring values differ by 9 %: accurate enough to read, and small enough for a file
COLUMNS: Final = (
    "run_id", "position", "decided", "token_id", "token", "part", "exit_layer", "final_token_id", "kl", "exit_prob",
    "exit_score", "drafted", "logprob", "entropy", "top_token_ids", "top_tokens", "top_prob",
    "exit_top_token_ids", "exit_top_tokens", "exit_top_prob",
)  # fmt: skip


@dataclass(frozen=True)
class PackedTokens:
    """Encoded tokens of the prompts on the page."""

    pieces: str  # an encoded JSON list: the text of each piece, or a token id (a number) whose text isn't known
    blobs: dict[str, list[str]]  # kind → one blob per prompt; only kinds that were recorded
    columns: dict[str, list[tuple[str, str, int]]]  # kind → name, type and W of each column
    n: list[int]  # number of recorded tokens of each run
    undrawn: list[int]  # number of tokens of each run without an exit decision; they come first
    flags: dict[str, bool]  # what `core` has: whether tokens disagree, and whether any was drafted
    top_k: int  # K
    parts: list[list[tuple[int, str]]]  # first position and name of each run's parts; empty without a chain
    score_kind: dict[str, str]  # configuration with exit scores → the kind that has them, KL or OWN


def pack(sweep: Sweep, runs: pd.DataFrame, prompt_ids: Sequence[str]) -> PackedTokens:
    """Encode the tokens of `runs`, which must be all runs of these prompts, in the order of the prompts."""
    tokens = _read(sweep, runs, prompt_ids)
    run_ids = tokens["run_id"].to_pandas()
    n, undrawn = (
        ids.value_counts().reindex(runs["run_id"], fill_value=0)
        for ids in (run_ids, run_ids[~np.asarray(tokens["decided"].fill_null(True))])
    )
    pieces = number_pieces(tokens)
    kinds = dict(_kinds(sweep, tokens, pieces))
    keys = run_ids.map(dict(zip(runs["run_id"], runs["configuration"], strict=True))).to_numpy()
    scores, score_kind = _exit_scores(tokens, keys, len(sweep.exitable_layers))
    if OWN in score_kind.values():
        kinds[OWN] = {"scores": scores.astype(np.float16).astype(np.float32)}  # three digits; most bytes are 0
    per_prompt = n.groupby(runs["prompt_id"].to_numpy()).sum().reindex(prompt_ids, fill_value=0)
    ends = per_prompt.cumsum().tolist()
    stretches = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    blobs = {
        kind: [",".join(squeeze(encode_planes(values[at])) for values in columns.values()) for at in stretches]
        for kind, columns in kinds.items()
    }
    described = {
        kind: [(name, values.dtype.str[1:], math.prod(values.shape[1:])) for name, values in columns.items()]
        for kind, columns in kinds.items()
    }
    flags = {"disagrees": _is_recorded(tokens, "final_token_id"), "drafted": bool(_drafted(tokens).any())}
    top_k = 0 if pieces.top is None else pieces.top.shape[1] // (len(sweep.exitable_layers) + 1)
    packed, parts = squeeze(json.dumps(pieces.texts).encode()), _parts(tokens)
    of_runs = [parts.get(run_id, []) for run_id in runs["run_id"]]
    return PackedTokens(packed, blobs, described, n.tolist(), undrawn.tolist(), flags, top_k, of_runs, score_kind)


def encode_planes(values: np.ndarray) -> bytes:
    """Return the bytes of the numbers column by column: first bytes before second ones, which compress better apart."""
    by_number = np.ascontiguousarray(values.T).view(np.uint8).reshape(-1, values.itemsize)
    return by_number.T.tobytes()


def encode_log(values: np.ndarray) -> np.ndarray:
    """Return non-negative numbers as bytes, in equal steps of log2 from 2^-10 to 2^6. Byte 0 means less than 2^-10."""
    with np.errstate(divide="ignore"):
        share = (np.log2(np.nan_to_num(values).clip(min=0)) - LOG2_LOW) / (LOG2_HIGH - LOG2_LOW)
    return np.where(share < 0, 0, 1 + np.round(share.clip(0, 1) * LOG_STEPS)).astype(np.uint8)


def encode_probabilities(probabilities_TX: np.ndarray) -> np.ndarray:
    """Return each row in hundredths, without the last column. Each row must sum to 1.

    The result has the differences of the rounded cumulative sums. So each value is off by at most a hundredth, and the
    last column can be restored as the rest to 100.
    """
    known_TX = np.nan_to_num(probabilities_TX[:, :-1])  # unrecorded ones are part of the rest
    hundredths = np.round(100 * np.cumsum(known_TX, axis=1, dtype=np.float64)).clip(0, 100)
    return np.diff(hundredths, axis=1, prepend=0).clip(min=0).astype(np.uint8)


def squeeze(content: bytes) -> str:
    # With a fixed mtime, the same results give the same file.
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _read(sweep: Sweep, runs: pd.DataFrame, prompt_ids: Sequence[str]) -> pa.Table:
    """Return the tokens of `runs`, sorted by run and position."""
    some = pc.field("prompt_id").isin(pa.array(prompt_ids, pa.string()))
    is_whole = len(prompt_ids) == len(sweep.prompts)
    tokens = sweep.tokens.to_table(columns=list(COLUMNS), filter=None if is_whole else some)
    run = pd.Index(runs["run_id"]).get_indexer(tokens["run_id"].to_pandas())
    order = np.lexsort((np.asarray(tokens["position"]), run))
    return tokens.take(order[(run < 0).sum() :]).combine_chunks()


def _kinds(sweep: Sweep, tokens: pa.Table, pieces: TokenDictionary) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield each recorded kind except the exit scores, with its columns: name → T or T × W numbers."""
    ranks = {layer: rank for rank, layer in enumerate(sweep.exitable_layers)}
    rank = tokens["exit_layer"].to_pandas().map(ranks).fillna(len(ranks)).to_numpy(dtype=int)
    disagrees = disagreeing(tokens) if _is_recorded(tokens, "final_token_id") else np.zeros(len(tokens), dtype=bool)
    flagged = 4 * rank + 2 * _drafted(tokens) + disagrees
    yield "core", {"exit": flagged.astype(np.min_scalar_type(4 * len(ranks) + 3)), "piece": pieces.token}
    if ranks and _is_recorded(tokens, "kl"):
        yield "kl", {"kl": encode_log(_rows(tokens["kl"], len(ranks)))}
    if ranks and _is_recorded(tokens, "exit_prob"):
        yield "prob", {"prob": encode_probabilities(_rows(tokens["exit_prob"], len(ranks) + 1))}
    if _is_recorded(tokens, "logprob"):
        logprob, entropy = encode_log(-np.asarray(tokens["logprob"])), encode_log(np.asarray(tokens["entropy"]))
        yield "more", {"logprob": logprob, "entropy": entropy, "said": pieces.said}
    if pieces.read is not None:
        yield "read", {"read": pieces.read, "read_prob": _steps(pieces.read, tokens["exit_top_prob"])}
    if pieces.top is not None:
        yield "top", {"top": pieces.top, "top_prob": _steps(pieces.top, tokens["top_prob"])}


def _parts(tokens: pa.Table) -> dict[str, list[tuple[int, str]]]:
    """Return run id → [(first position, part), …], for runs with a chain of thought."""
    found: dict[str, list[tuple[int, str]]] = {}
    if tokens["part"].null_count < len(tokens):
        frame = tokens.select(["run_id", "position", "part"]).to_pandas()
        begins = (frame[["run_id", "part"]] != frame[["run_id", "part"]].shift()).any(axis=1)
        for run_id, position, part in frame[begins].itertuples(index=False):
            found.setdefault(run_id, []).append((position, part))
    return {run_id: parts for run_id, parts in found.items() if parts[0] != (0, ANSWER) or len(parts) > 1}


def _is_recorded(tokens: pa.Table, column: str) -> bool:
    return len(tokens) > 0 and not tokens[column].null_count


def _drafted(tokens: pa.Table) -> np.ndarray:
    drafted: np.ndarray = np.asarray(tokens["drafted"].fill_null(False)).astype(bool)
    return drafted


def _exit_scores(tokens: pa.Table, keys: np.ndarray, n_layers: int) -> tuple[np.ndarray, dict[str, str]]:
    """Return the exit scores, (T, E), and configuration → the kind of blob that has its scores, `OWN` or `KL`.

    `keys` has each token's configuration. Scores that equal the recorded KLs become NaN, so that they aren't stored
    twice.
    """
    scores = _rows(tokens["exit_score"], n_layers)
    computed = ~np.isnan(scores)
    kl = _rows(tokens["kl"], n_layers)
    differs = pd.Series((computed & (scores != kl)).any(axis=1)).groupby(keys).any()
    known = pd.Series(computed.any(axis=1)).groupby(keys).any()
    score_kind = {str(key): OWN if differs[key] else KL for key in known.index[known]}
    scores[pd.Series(keys).map(score_kind).ne(OWN).to_numpy()] = np.nan
    return scores, score_kind


def _rows(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Return a column of lists as rows of `width` numbers, NaN where nothing was recorded."""
    rows = np.full((len(column), width), np.nan, dtype=np.float32)
    recorded = np.asarray(column.is_valid())
    if recorded.any() and width:
        rows[recorded] = np.asarray(flat(column)).reshape(-1, width)
    return rows


def _steps(likely: np.ndarray, probabilities: pa.ChunkedArray) -> np.ndarray:
    """Return the probabilities of likely tokens in steps of 1/255; 0 if not recorded."""
    found = np.nan_to_num(_rows(probabilities, likely.shape[1]))
    steps: np.ndarray = np.round(found * 255).astype(np.uint8)
    return steps
