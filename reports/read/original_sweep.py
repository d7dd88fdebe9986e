"""Results in the original format, `early_exit_analysis.json`, as a `Sweep`. Values that a file lacks become null.

Exits are counted from `chosen_exit_layers`. A result without it is counted from `early_exit_stats`, whose
`layer_distribution` may contain early exits only. Tokens are compared by their text.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from eexit.plan.configuration import NORMAL
from eexit.plan.runs import ERROR, OK
from eexit.quality.text_metrics import agreement, distinct, longest_loop
from eexit.results.original_format import OriginalResult, number_of, prompts_of, results_of, valid_text
from eexit.results.tables import GENERATIONS, TOKENS
from reports.read.committed_runs import loose
from reports.read.sweep import Sweep, assemble

SOURCE: Final = (
    "a file of the original format; exits are counted from its chosen_exit_layers, tokens are compared by their text"
)
ACCURACY, SCORE = "Accuracy score", "Score: "  # the label of the accuracy score, and the beginning of other labels


def sweep_of(entries: Sequence[Mapping[str, Any]]) -> Sweep:
    """Return results in the original format as a sweep."""
    read = results_of(entries)
    exitable, final = _layers(read)
    prompts = {str(number): prompt for number, prompt in enumerate(prompts_of(entries))}
    scores_of = [_scores(result) for result in read]
    scores = _score_names(scores_of)
    normal = {result.prompt: result.tokens for result in reversed(read) if result.mode == NORMAL}
    ranks = {layer: rank for rank, layer in enumerate([*exitable, final])}
    counts = np.zeros((len(read), len(ranks)), dtype=int)
    generations: list[dict[str, Any]] = []
    tokens: list[dict[str, Any]] = []
    for row, result in enumerate(read):
        chosen = [final if _is_final(layer, final) else layer for layer in result.chosen_exit_layers]
        undrawn = _undrawn(result, chosen, final)
        found = _counts(result, chosen[undrawn:], final)
        counts[row, [ranks[layer] for layer in found]] = list(found.values())
        exits = _exits(counts[row], list(ranks)) if found else {"exit_rate": _rate(result)}
        quality = _quality(result.tokens, normal.get(result.prompt))
        of_file = {key: scores_of[row].get(label) for key, label in scores.items()}
        generations.append(_naming(row, result, prompts) | exits | quality | of_file)
        tokens += _tokens(generations[-1], result.tokens, chosen, undrawn)
    numbers = [field.name for field in GENERATIONS if str(field.type) in ("double", "int32")]
    columns = [*(name for name in GENERATIONS.names if name != "exit_layer_counts"), *scores, "notes"]
    frame = pd.DataFrame(generations, columns=columns)
    texts = pa.table({name: pa.array(frame[name], pa.string()) for name in ("run_id", "prompt_id", "text")})
    return assemble(
        Sweep(
            about={"source": SOURCE},
            exitable_layers=tuple(exitable),
            final_layer=final,
            prompts=prompts,
            generations=frame.astype({**dict.fromkeys([*numbers, *scores], float), "seed": int}),
            layer_counts=counts,
            tokens=ds.dataset(pa.Table.from_pylist(tokens, schema=loose(TOKENS))),
            texts=ds.dataset(texts),
            scores=scores,
        )
    )


def _layers(results: list[OriginalResult]) -> tuple[list[int], int | None]:
    """Return the exitable layers, and the final layer or None if its number isn't known.

    With `normal` runs, the final layer is the largest among their exits and the listed exitable layers, since such a
    list may end with the final layer. Without them, it is the largest layer in the file. It is unknown if exits at the
    final layer have no number, or if that largest layer is counted as an early exit.
    """
    normal = {layer for result in results if result.mode == NORMAL for layer in result.chosen_exit_layers}
    chosen = {layer for result in results for layer in [*result.chosen_exit_layers, *result.layer_distribution]}
    listed = {layer for result in results for layer in result.exitable_layers}
    named = sorted(layer for layer in chosen | listed if layer is not None)
    if normal - {None}:
        final = max(layer for layer in normal | listed if layer is not None)
    elif None in chosen or not named or any(_is_early(result, named[-1]) for result in results):
        final = None
    else:
        final = named[-1]
    return [layer for layer in named if not _is_final(layer, final)], final


def _is_early(result: OriginalResult, layer: int) -> bool:
    """Return True if a result exits at `layer`, and its statistics count all these exits as early."""
    return layer in result.chosen_exit_layers and result.early_exits == len(result.chosen_exit_layers)


def _is_final(layer: int | None, final: int | None) -> bool:
    return layer is None or (final is not None and layer >= final)


def _undrawn(result: OriginalResult, chosen: list[int | None], final: int | None) -> int:
    """Return 1 if the statistics leave out the first token, which had no exit decision; otherwise 0."""
    return int(len(chosen) > 1 and chosen[0] == final and result.total_tokens == len(chosen) - 1)


def _counts(result: OriginalResult, chosen: list[int | None], final: int | None) -> dict[int | None, int]:
    """Return the number of decided tokens per exit layer; empty if the file does not record it."""
    if chosen:
        return dict(Counter(chosen))
    total, early = result.total_tokens, result.early_exits
    n = sum(result.layer_distribution.values())
    counts: Counter[int | None] = Counter()
    for layer, count in result.layer_distribution.items():
        counts[final if _is_final(layer, final) else layer] += count
    if total and n == early and final not in counts:
        counts[final] = int(total) - n
    return dict(counts) if counts.total() == total or final in counts else {}


def _exits(counts: np.ndarray, layers: list[int | None]) -> dict[str, float | None]:
    """Return the exit rate, and the mean depth if the number of layers is known. `layers` ends with the final one."""
    final = layers[-1]
    depth = None if final is None else float(counts @ [(layer or 0) + 1 for layer in layers]) / (final + 1)
    n = int(counts.sum())
    if not n:
        return {}
    return {"exit_rate": 1 - int(counts[-1]) / n, "mean_depth": None if depth is None else depth / n}


def _quality(pieces: list[str], normal: list[str] | None) -> dict[str, Any]:
    """Return statistics of a run's tokens, and their agreement with the prompt's `normal` run."""
    if not pieces:
        return {}
    number_of = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, *(normal or [])]))}
    ids = np.array([number_of[piece] for piece in pieces])
    compared = asdict(agreement(ids, np.array([number_of[piece] for piece in normal]))) if normal else {}
    repeats = {"distinct_2": distinct(ids.tolist(), 2), "distinct_3": distinct(ids.tolist(), 3)}
    return compared | repeats | {"longest_loop": longest_loop(ids)}


def _scores(result: OriginalResult) -> dict[str, float]:
    """Return label → score: the accuracy score, and the file's other numeric scores."""
    own = {f"{SCORE}{valid_text(name)}": number_of(score) for name, score in result.scores.items()}
    return {label: score for label, score in {ACCURACY: result.accuracy_score, **own}.items() if score is not None}


def _score_names(scores_of: list[dict[str, float]]) -> dict[str, str]:
    """Return column → label of all results' scores; the accuracy score comes first."""
    labels = dict.fromkeys(label for scores in scores_of for label in scores)
    names = {"accuracy_score": ACCURACY} if ACCURACY in labels else {}
    for label in (label for label in labels if label != ACCURACY):
        key = "score_" + re.sub(r"\W+", "_", label.removeprefix(SCORE))
        names[key if key not in names else f"{key}_{len(names)}"] = label
    return names


def _naming(row: int, result: OriginalResult, prompts: dict[str, str]) -> dict[str, Any]:
    text = "".join(result.tokens) if result.response is None and result.tokens else result.response
    return {
        "run_id": str(row),
        "prompt_id": str(result.prompt),
        "prompt": prompts[str(result.prompt)],
        "mode": result.mode,
        "kl_factor": None if result.mode == NORMAL else result.kl_factor,
        "seed": 0,
        "status": ERROR if result.error else OK,
        "error": result.error,
        "text": text,
        "n_tokens": len(result.tokens) or len(result.chosen_exit_layers) or result.total_tokens,
        "notes": _notes(result),
    }


def _tokens(
    generation: dict[str, Any], pieces: list[str], chosen: list[int | None], undrawn: int
) -> list[dict[str, Any]]:
    """Return one row per token that has both a text and an exit layer."""
    naming = {name: generation[name] for name in ("run_id", "prompt_id", "mode", "kl_factor", "seed")}
    return [
        naming | {"position": i, "decided": i >= undrawn, "token": piece, "exit_layer": layer}
        for i, (piece, layer) in enumerate(zip(pieces, chosen, strict=False))
    ]


def _rate(result: OriginalResult) -> float | None:
    total, early = result.total_tokens, result.early_exits
    return early / total if total and early is not None else result.early_exit_rate


def _notes(result: OriginalResult) -> list[tuple[str, str]]:
    scores = ", ".join(f"{name} {score}" for name, score in result.scores.items())
    notes = {"Scores": scores, "Evaluation": result.evaluation_text}
    return [(label, valid_text(note)) for label, note in notes.items() if note]
