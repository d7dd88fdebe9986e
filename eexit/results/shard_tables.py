"""The tables of a shard, ready for Parquet, and the interface of the generator that produces them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from eexit.plan.runs import EOS, ERROR, OK, Run
from eexit.plan.splits import kind_of
from eexit.plan.sweep_config import SweepConfig
from eexit.quality.text_metrics import agreement, disagreement, distinct, longest_loop, perplexity
from eexit.quality.thinking import PARTS
from eexit.results.tables import GENERATIONS, TOKENS
from eexit.results.token_columns import TokenColumn, TokenColumns, recorded


@dataclass(frozen=True)
class ShardTables:
    """Tables of some runs, with the schemas `tables.GENERATIONS` and `tables.TOKENS`."""

    generations: pa.Table
    tokens: pa.Table


class ProgressCallback(Protocol):
    """Callback by which a generator reports progress."""

    def __call__(self, tokens: int, runs: int = 0, observed: int = 0) -> None:
        """Count generated tokens, ended runs, and tokens of finished texts observed since the last call."""


class Generator(Protocol):
    """Executor of runs. A run that fails becomes an error row in the tables and raises no exception."""

    def generate(self, runs: Sequence[Run], progress: ProgressCallback) -> ShardTables:
        """Execute the runs together; calls `progress` now and then."""
        ...


def error_results(runs: Sequence[Run], config: SweepConfig, error: str) -> ShardTables:
    """Return tables of failed runs: a row each with the reason, and null in every column of generated output."""
    rows = [{**run_columns(run, config), "status": ERROR, "error": error} for run in runs]
    return ShardTables(pa.Table.from_pylist(rows, GENERATIONS), TOKENS.empty_table())


def run_columns(run: Run, config: SweepConfig) -> dict[str, object]:
    """Return the columns of a generations row that do not depend on the run's output."""
    return {
        "run_id": run.run_id,
        "prompt_id": run.prompt.id,
        "prompt": run.prompt.prompt,
        "answer": run.prompt.answer,
        "kind": kind_of(run.prompt.id, run.prompt.kind),
        "group": run.prompt.group,
        "steps": run.prompt.steps,
        **run.columns,
        "readout": config.readout,
        "seed": run.seed,
        "model": config.model,
    }


def exit_statistics(exit_layer_D: np.ndarray, exitable_layers: Sequence[int], n_layers: int) -> dict[str, Any]:
    """Return the columns on exit layers of a run's decided tokens."""
    counts = {layer: int((exit_layer_D == layer).sum()) for layer in (*exitable_layers, n_layers - 1)}
    return {
        "exit_rate": float((exit_layer_D < n_layers - 1).mean()) if len(exit_layer_D) else None,
        "mean_depth": float((exit_layer_D + 1).mean() / n_layers) if len(exit_layer_D) else None,
        "exit_layer_counts": list(counts.items()),
    }


def part_columns(
    trace: TokenColumns, part_T: Sequence[str], exitable_layers: Sequence[int], n_layers: int
) -> dict[str, Any]:
    """Return a generations row's columns about thinking and answer, except `thinking_closed`, from the run's output."""
    columns: dict[str, Any] = {}
    for part in PARTS:
        is_of_T = np.array(part_T) == part
        at_D = np.flatnonzero(is_of_T[trace.first_decided :]) + trace.first_decided
        of = exit_statistics(trace.exit_layer_T[at_D], exitable_layers, n_layers)
        if len(at_D) and len(trace.final_token_id_T):
            of["disagreement"] = float((trace.token_id_T[at_D] != trace.final_token_id_T[at_D]).mean())
        if len(at_D) and len(trace.kl_TE):
            of["kl"] = trace.kl_TE[at_D].mean(axis=0, dtype=np.float64).tolist()
        columns[f"n_{part}_tokens"] = int(is_of_T.sum())
        columns |= {f"{name}_{part}": value for name, value in of.items()}
    return columns


def token_pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Return each token's text; they concatenate to the whole text. A multi-token character goes to its last token."""
    pieces: list[str] = []
    start = done = 0  # tokens before `done` have their text; decoding starts one piece earlier, for context
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
    """Return the text of a single token, decoded alone."""
    return _decode(tokenizer, [token_id])


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def generation_columns(
    trace: TokenColumns,
    normal: TokenColumns | None,
    pieces: Sequence[str],
    exitable_layers: Sequence[int],
    n_layers: int,
) -> dict[str, Any]:
    """Return the columns of a generations row that follow from the run's output: text, exits and quality.

    `trace` is the output, and `normal` that of the prompt's `normal` run; without it, comparisons are left out.
    `pieces` are the tokens' texts.
    """
    tokens, decided = trace.token_id_T, slice(trace.first_decided, None)
    compared = asdict(agreement(tokens, normal.token_id_T)) if normal else {}
    if normal and trace.exit_top_token_ids_TK.size and len(trace.final_token_id_T):
        compared |= _exits_on_normal(trace, compared["tokens_until_difference"], n_layers)
    return {
        "status": OK,
        "finish_reason": trace.finish_reason,
        "text": "".join(pieces),
        "n_tokens": len(tokens),
        **exit_statistics(trace.decided_exit_layer_T, exitable_layers, n_layers),
        "prompt_mean_depth": prompt_mean_depth(trace, n_layers),
        "disagreement": disagreement(tokens[decided], trace.final_token_id_T[decided])
        if len(trace.final_token_id_T)
        else None,
        "perplexity": perplexity(trace.logprob_T) if len(trace.logprob_T) else None,
        **compared,
        "distinct_2": distinct(tokens.tolist(), 2),
        "distinct_3": distinct(tokens.tolist(), 3),
        "longest_loop": longest_loop(tokens),
    }


def prompt_mean_depth(trace: TokenColumns, n_layers: int) -> float | None:
    """Return the mean depth of the prompt's tokens but the last; None without prompt exits or such tokens."""
    if trace.prompt is None or not len(trace.prompt.exit_layer_T):
        return None
    return float((trace.prompt.exit_layer_T + 1).mean() / n_layers)


def _exits_on_normal(trace: TokenColumns, n_equal: int, n_layers: int) -> dict[str, int]:
    """Count early exits while the text equals that of `normal`: up to the decided token after `n_equal` equal ones."""
    after_equal = slice(trace.first_decided, n_equal + 1)
    is_early_D = trace.exit_layer_T[after_equal] < n_layers - 1
    differs_D = trace.exit_top_token_ids_TK[after_equal, 0] != trace.final_token_id_T[after_equal]
    return {"exits_on_normal": int(is_early_D.sum()), "contradicted_on_normal": int((is_early_D & differs_D).sum())}


def text_pieces(tokenizer: Any, trace: TokenColumns) -> list[str]:
    """Return the text of each token of a run; an EOS token that ends the run has an empty text."""
    token_ids = trace.token_id_T.tolist()
    if trace.finish_reason == EOS:
        return [*token_pieces(tokenizer, token_ids[:-1]), ""]
    return token_pieces(tokenizer, token_ids)


def tokens_table(
    run: Run,
    trace: TokenColumns,
    pieces: Sequence[str],
    text_of: Callable[[int], str],
    part_T: Sequence[str] | None = None,
) -> pa.Table:
    """Return a table with one row per generated token of a run; `text_of` decodes a single token."""
    n_tokens = len(trace.token_id_T)
    position = np.arange(n_tokens, dtype=np.int32)

    def same(value: object) -> list[object]:
        return [value] * n_tokens

    columns: dict[str, Any] = {
        "run_id": same(run.run_id),
        "prompt_id": same(run.prompt.id),
        **{name: same(value) for name, value in run.columns.items()},
        "seed": same(run.seed),
        "position": position,
        "decided": position >= trace.first_decided,
        "token": pieces,
        "part": same(None) if part_T is None else part_T,
    }
    for attribute, name, _, column in recorded():
        values = getattr(trace, attribute)
        columns[name] = _lists(values, column) if values.size else pa.nulls(n_tokens)
        if column.texts:
            columns[column.texts] = _texts(values, text_of) if values.size else pa.nulls(n_tokens)
    return pa.table({field.name: columns[field.name] for field in TOKENS}, schema=TOKENS)


def _lists(values: np.ndarray, column: TokenColumn) -> pa.Array:
    """Return a number or nested lists of numbers per token; NaN in `values` becomes null in nullable columns."""
    flat = pa.array(values.reshape(-1), column.kind, from_pandas=column.nullable)
    if values.ndim == 1 or not column.nullable or values.dtype.kind != "f":
        return _nested(flat, values.shape)
    return _nested(flat, values.shape, np.isnan(values).reshape(len(values), -1).all(1))


def _texts(token_ids: np.ndarray, text_of: Callable[[int], str]) -> pa.Array:
    distinct_ids, which = np.unique(token_ids, return_inverse=True)
    texts = pa.array([text_of(token_id) for token_id in distinct_ids.tolist()], pa.string()).take(which.reshape(-1))
    return _nested(texts, token_ids.shape)


def _nested(flat: pa.Array, shape: tuple[int, ...], absent_T: np.ndarray | None = None) -> pa.Array:
    """Return the flat array as nested lists, one level for each dimension of `shape` after the first."""
    for axis in reversed(range(1, len(shape))):
        offsets = pa.array(np.arange(int(np.prod(shape[:axis])) + 1, dtype=np.int32) * shape[axis])
        mask = None if axis > 1 or absent_T is None else pa.array(absent_T)
        flat = pa.ListArray.from_arrays(offsets, flat, mask=mask)
    return flat
