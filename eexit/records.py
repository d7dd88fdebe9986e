"""Traces to rows: what a run generated, as `schema.GENERATIONS` and `schema.TOKENS` columns."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from eexit.evaluation import agreement, disagreement, distinct, longest_loop, perplexity
from eexit.plan import Run
from eexit.rows import Trace
from eexit.schema import EOS, OK, TOKENS


@dataclass(frozen=True)
class Exits:
    """Exit statistics over the decided tokens; rate and depth are fractions (of tokens, of L)."""

    exit_rate: float | None
    mean_depth: float | None
    exit_layer_counts: dict[int, int]


def exit_statistics(exit_layer_T: np.ndarray, exitable_layers: Sequence[int], n_layers: int) -> Exits:
    """Statistics of a run's exit layers; its first token was not decided and does not count."""
    decided = np.asarray(exit_layer_T)[1:]
    counts = {layer: int((decided == layer).sum()) for layer in (*exitable_layers, n_layers - 1)}
    if not len(decided):
        return Exits(None, None, counts)
    return Exits(float((decided < n_layers - 1).mean()), float((decided + 1).mean() / n_layers), counts)


def token_pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Each token's text. They concatenate to the whole; a character spread over tokens comes with its last one."""
    pieces: list[str] = []
    start = done = 0  # tokens before `done` have given their text; decoding goes on from `start`, one piece earlier
    for end in range(1, len(token_ids) + 1):
        before = _decode(tokenizer, token_ids[start:done])
        text = _decode(tokenizer, token_ids[start:end])
        if text.endswith("\ufffd") and end < len(token_ids):
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        start, done = done, end
    return pieces


def token_text(tokenizer: Any, token_id: int) -> str:
    """A token's text by itself."""
    return _decode(tokenizer, [token_id])


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    return tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def generation_columns(
    trace: Trace, normal: Trace | None, pieces: Sequence[str], exitable_layers: Sequence[int], n_layers: int
) -> dict[str, Any]:
    """What a generations row says of what was made: text, exits and quality."""
    tokens = trace.token_id_T
    compared = asdict(agreement(tokens, normal.token_id_T)) if normal else {}
    exits = exit_statistics(trace.exit_layer_T, exitable_layers, n_layers)
    return {
        "status": OK,
        "finish_reason": trace.finish_reason,
        "text": "".join(pieces),
        "n_tokens": len(tokens),
        "exit_rate": exits.exit_rate,
        "mean_depth": exits.mean_depth,
        "disagreement": disagreement(tokens, trace.final_token_id_T),
        "exit_layer_counts": list(exits.exit_layer_counts.items()),
        "perplexity": perplexity(trace.logprob_T),
        **compared,
        "distinct_2": distinct(tokens.tolist(), 2),
        "distinct_3": distinct(tokens.tolist(), 3),
        "longest_loop": longest_loop(tokens),
    }


def text_pieces(tokenizer: Any, trace: Trace) -> list[str]:
    """A run's text, token by token: the token that ended it is not part of it."""
    token_ids = trace.token_id_T.tolist()
    if trace.finish_reason == EOS:
        return [*token_pieces(tokenizer, token_ids[:-1]), ""]
    return token_pieces(tokenizer, token_ids)


def tokens_table(run: Run, trace: Trace, pieces: Sequence[str], text_of: Callable[[int], str]) -> pa.Table:
    """One row per generated token of a run; `text_of` gives a token's text by itself."""
    n_tokens = len(trace.token_id_T)
    position = np.arange(n_tokens, dtype=np.int32)

    def same(value: object, kind: pa.DataType) -> pa.Array:
        return pa.array([value] * n_tokens, kind)

    columns = {
        "run_id": same(run.run_id, pa.string()),
        "prompt_id": same(run.prompt.id, pa.string()),
        "mode": same(run.configuration.mode.value, pa.string()),
        "kl_factor": same(run.configuration.kl_factor, pa.float64()),
        "seed": same(run.seed, pa.int64()),
        "position": pa.array(position),
        "decided": pa.array(position > 0),
        "token_id": pa.array(trace.token_id_T),
        "token": pa.array(pieces, pa.string()),
        "exit_layer": pa.array(trace.exit_layer_T),
        "kl": _lists(trace.kl_TE),
        "exit_prob": _lists(trace.exit_prob_TE),
        "logprob": pa.array(trace.logprob_T),
        "exit_logprob": pa.array(trace.exit_logprob_T),
        "final_token_id": pa.array(trace.final_token_id_T),
        "entropy": pa.array(trace.entropy_T),
    }
    if trace.top_token_id_TXK.size:
        columns |= _top_columns("top", trace.top_token_id_TXK, trace.top_prob_TXK, text_of)
        columns |= _top_columns("exit_top", trace.exit_top_token_id_TK, trace.exit_top_prob_TK, text_of)
    return pa.table([columns.get(f.name, pa.nulls(n_tokens, f.type)) for f in TOKENS], schema=TOKENS)


def _top_columns(
    prefix: str, token_ids: np.ndarray, probabilities: np.ndarray, text_of: Callable[[int], str]
) -> dict[str, pa.Array]:
    distinct_ids, which = np.unique(token_ids, return_inverse=True)
    texts = pa.array([text_of(token_id) for token_id in distinct_ids.tolist()], pa.string()).take(which.reshape(-1))
    return {
        f"{prefix}_token_ids": _lists(token_ids),
        f"{prefix}_tokens": _nested(texts, token_ids.shape),
        f"{prefix}_prob": _lists(probabilities),
    }


def _lists(values: np.ndarray) -> pa.ListArray:
    return _nested(pa.array(values.reshape(-1)), values.shape)


def _nested(flat: pa.Array, shape: tuple[int, ...]) -> pa.Array:
    """Lists, of lists where there are more dimensions, whose lengths are those of `shape` after the first."""
    for n_lists, width in reversed([(int(np.prod(shape[:axis])), shape[axis]) for axis in range(1, len(shape))]):
        flat = pa.ListArray.from_arrays(np.arange(n_lists + 1, dtype=np.int32) * width, flat)
    return flat
