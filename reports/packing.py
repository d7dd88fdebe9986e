"""Tokens → bytes: columns, gzip, base64; blobs per prompt, decoded by `template/data.js`.

Of the T tokens of one prompt, its runs one after the other, with E exitable layers and R = E + 1 exit ranks:

core      exit ranks, two in a byte (one if there are more than 16); pieces (T numbers)
disagree  T bits, a byte's lowest first: 1 where a decided token is not what full depth would have said
kl        T rows of E bytes: KL in even steps of log2
prob      T rows of E bytes: exit probability in hundredths, so rounded that with the final layer's they are 100
more      T bytes −logprob and T bytes entropy, in the same steps; what full depth would have said (T numbers:
          1 + piece, 0: the same)
read      K columns of T numbers (1 + piece, 0: none), likeliest first, of the distribution that the token was read
          from; as many columns of probabilities in 1/255
top       R × K columns likewise, of full depth read at each exit rank

Numbers take one byte below 128, two up to 32,639, else four: all first bytes, then second bytes, then the rest.
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

from reports.loading import Sweep, disagreeing
from reports.pieces import Pieces, flat, number_pieces

KINDS: Final = ("core", "disagree", "kl", "prob", "more", "read", "top")
LOG2_LOW: Final = -10.0
LOG2_HIGH: Final = 6.0
LOG_STEPS: Final = 126  # of 9 %: enough to read, small enough to send
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
    """What the page holds of the tokens of some prompts."""

    pieces: str  # a JSON list: text of each piece, or the token id as a number where its text isn't known
    blobs: dict[str, list[str]]  # kind → one per prompt; only the kinds that were recorded
    n: list[int]  # recorded tokens of each run
    undrawn: list[int]  # how many of them, from the first, had no exit drawn
    top_k: int  # K


def pack(sweep: Sweep, runs: pd.DataFrame, prompt_ids: Sequence[str]) -> Packed:
    """The tokens of `runs`, which are all runs of these prompts and in their order."""
    tokens = _read(sweep, runs, prompt_ids)
    run_ids = tokens["run_id"].to_pandas()
    n, undrawn = (
        ids.value_counts().reindex(runs["run_id"], fill_value=0)
        for ids in (run_ids, run_ids[~np.asarray(tokens["decided"].fill_null(True))])
    )
    pieces = number_pieces(tokens)
    columns = _columns(sweep, tokens, pieces)
    per_prompt = n.groupby(runs["prompt_id"].to_numpy()).sum().reindex(prompt_ids, fill_value=0)
    ends = per_prompt.cumsum().tolist()
    stretches = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    blobs = {kind: [squeeze(column(at)) for at in stretches] for kind, column in columns.items()}
    top_k = 0 if pieces.top is None else pieces.top.shape[1] // (len(sweep.exitable_layers) + 1)
    return Packed(squeeze(json.dumps(pieces.texts).encode()), blobs, n.tolist(), undrawn.tolist(), top_k)


def encode_log(values: np.ndarray) -> np.ndarray:
    """Non-negative numbers as bytes, even steps of log2; 0 is anything below 2^-10."""
    with np.errstate(divide="ignore"):
        place = (np.log2(np.nan_to_num(values).clip(min=0)) - LOG2_LOW) / (LOG2_HIGH - LOG2_LOW)
    return np.where(place < 0, 0, 1 + np.round(place.clip(0, 1) * LOG_STEPS)).astype(np.uint8)


def encode_probabilities(probabilities_TX: np.ndarray) -> np.ndarray:
    """Each row, whose sum is 1, as hundredths without the last one's: the differences of its rounded sums up to there.

    None is further than a hundredth from what it was, and the last one is what is missing from 100.
    """
    hundredths = np.round(100 * np.cumsum(probabilities_TX[:, :-1], axis=1, dtype=np.float64)).clip(0, 100)
    return np.diff(hundredths, axis=1, prepend=0).clip(min=0).astype(np.uint8)


def encode_numbers(numbers: np.ndarray) -> bytes:
    """Numbers below 2^24, small ones in fewer bytes."""
    two, long = (numbers >= 128) & (numbers < 128 + (127 << 8)), numbers >= 128 + (127 << 8)
    first = np.where(long, 255, np.where(two, 128 + ((numbers - 128) >> 8), numbers))
    rest = [numbers[long] >> shift for shift in (0, 8, 16)]
    return b"".join((part & 255).astype(np.uint8).tobytes() for part in (first, numbers[two] - 128, *rest))


def encode_ranks(ranks: np.ndarray, n_ranks: int) -> bytes:
    if n_ranks > 16:
        return ranks.tobytes()
    even = np.append(ranks, np.uint8(0)) if len(ranks) % 2 else ranks
    packed: np.ndarray = (even[::2] | even[1::2] << 4).astype(np.uint8)
    return packed.tobytes()


def squeeze(content: bytes) -> str:
    # mtime: the same results give the same file.
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _read(sweep: Sweep, runs: pd.DataFrame, prompt_ids: Sequence[str]) -> pa.Table:
    """The rows of `runs`, run by run and position by position."""
    some = (
        None if len(prompt_ids) == len(sweep.prompts) else pc.field("prompt_id").isin(pa.array(prompt_ids, pa.string()))
    )
    tokens = sweep.tokens.to_table(columns=list(COLUMNS), filter=some)
    run = pd.Index(runs["run_id"]).get_indexer(tokens["run_id"].to_pandas())
    order = np.lexsort((np.asarray(tokens["position"]), run))
    return tokens.take(order[(run < 0).sum() :]).combine_chunks()


def _columns(sweep: Sweep, tokens: pa.Table, pieces: Pieces) -> dict[str, Callable[[slice], bytes]]:
    """What was recorded: kind → the bytes of a stretch of tokens."""
    ranks = {layer: rank for rank, layer in enumerate(sweep.exitable_layers)}
    rank = tokens["exit_layer"].to_pandas().map(ranks).fillna(len(ranks)).to_numpy(dtype=np.uint8)
    found: dict[str, Callable[[slice], bytes]] = {
        "core": lambda at: encode_ranks(rank[at], len(ranks) + 1) + encode_numbers(pieces.token[at])
    }
    if len(tokens) and not tokens["final_token_id"].null_count:
        disagree = disagreeing(tokens)
        found["disagree"] = lambda at: np.packbits(disagree[at], bitorder="little").tobytes()
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


def _likely(numbers: np.ndarray, probabilities: pa.ChunkedArray) -> Callable[[slice], bytes]:
    """Columns of numbers, then as many of their probabilities in steps of 1/255, 0 where they weren't recorded."""
    probability = np.zeros(numbers.shape, dtype=np.uint8)
    recorded = np.asarray(probabilities.is_valid())
    probability[recorded] = np.round(np.asarray(flat(probabilities)) * 255).reshape(-1, numbers.shape[1])
    return lambda at: encode_numbers(numbers[at].T.ravel()) + probability[at].T.tobytes()
