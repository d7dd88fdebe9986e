"""Results in the original shape, `early_exit_analysis.json`, as a `Sweep`; what they don't say is null.

Exits are counted from `chosen_exit_layers`, and from `early_exit_stats` only where a result lacks that: there,
`layer_distribution` may hold early exits alone. Tokens are compared by their text.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from eexit.evaluation import agreement, distinct, longest_loop
from eexit.schema import ERROR, GENERATIONS, OK, TOKENS
from reports.landed import loose
from reports.sweep import NORMAL, Sweep, assemble

SOURCE: Final = (
    "a file of the original format; exits are counted from its chosen_exit_layers, tokens are compared by their text"
)


@dataclass(frozen=True)
class Result:
    """One entry of a prompt's `results`. A layer is None where the final one is written without its number."""

    prompt: int  # its place in the file
    given: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    stats: Mapping[str, Any]
    mode: str
    pieces: list[str]
    chosen: list[int | None]  # the layer that each token was read from
    listed: list[int | None]  # exitable layers
    counted: dict[int | None, int]  # tokens by layer, as `layer_distribution` has them


def sweep_of(results: Sequence[Mapping[str, Any]]) -> Sweep:
    """Results in the original shape as a sweep."""
    read = [
        _read(number, given)
        for number, entry in enumerate(results)
        for given in entry.get("results") or []
        if isinstance(given, Mapping)
    ]
    exitable, final = _layers(read)
    prompts = {str(number): text_of(entry.get("prompt")) for number, entry in enumerate(results)}
    scores = _score_names(read)
    normal = {result.prompt: result.pieces for result in reversed(read) if result.mode == NORMAL}
    ranks = {layer: rank for rank, layer in enumerate([*exitable, final])}
    counts = np.zeros((len(read), len(ranks)), dtype=int)
    generations: list[dict[str, Any]] = []
    tokens: list[dict[str, Any]] = []
    for row, result in enumerate(read):
        chosen = [final if _is_final(layer, final) else layer for layer in result.chosen]
        undrawn = _undrawn(result, chosen, final)
        found = _counts(result, chosen[undrawn:], final)
        counts[row, [ranks[layer] for layer in found]] = list(found.values())
        exits = _exits(counts[row], list(ranks)) if found else {"exit_rate": _rate(result.stats)}
        quality = _quality(result.pieces, normal.get(result.prompt))
        generations.append(_naming(row, result, prompts) | exits | quality | _scores(result, scores))
        tokens += _tokens(generations[-1], result.pieces, chosen, undrawn)
    numbers = [field.name for field in GENERATIONS if str(field.type) in ("double", "int32")]
    columns = [*(name for name in GENERATIONS.names if name != "exit_layer_counts"), *scores, "notes"]
    frame = pd.DataFrame(generations, columns=columns)
    texts = pa.table({name: pa.array(frame[name], pa.string()) for name in ("run_id", "prompt_id", "text")})
    return assemble(
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


def _read(number: int, given: Mapping[str, Any]) -> Result:
    evaluation = _mapping(given, "evaluation")
    stats = _mapping(evaluation, "early_exit_stats")
    counted: Counter[int | None] = Counter()
    for layer, n in _mapping(stats, "layer_distribution").items():
        counted[_layer(layer)] += int(_number(n) or 0)
    return Result(
        prompt=number,
        given=given,
        evaluation=evaluation,
        stats=stats,
        mode=text_of(given.get("mode")) or "unnamed",
        pieces=[text_of(token) for token in _list(evaluation, "tokens")],
        chosen=[_layer(layer) for layer in _list(evaluation, "chosen_exit_layers")],
        listed=[_layer(layer) for layer in _list(evaluation, "exitable_layers")],
        counted=dict(counted),
    )


def _layers(results: list[Result]) -> tuple[list[int], int | None]:
    """Exitable layers and the final one; None where its number is not in the file.

    The final layer is the largest of `normal` and of the lists, or of all where there is no `normal`, since lists may
    end with it. It is not known where final tokens stand without a number, or the largest is counted as an early exit.
    """
    normal = {layer for result in results if result.mode == NORMAL for layer in result.chosen}
    chosen = {layer for result in results for layer in [*result.chosen, *result.counted]}
    listed = {layer for result in results for layer in result.listed}
    named = sorted(layer for layer in chosen | listed if layer is not None)
    if normal - {None}:
        final = max(layer for layer in normal | listed if layer is not None)
    elif None in chosen or not named or any(_is_early(result, named[-1]) for result in results):
        final = None
    else:
        final = named[-1]
    return [layer for layer in named if not _is_final(layer, final)], final


def _is_early(result: Result, layer: int) -> bool:
    """Whether the result's statistics count a layer that it exits at among the early ones."""
    n_early = _number(result.stats.get("early_exits"))
    return layer in result.chosen and n_early == len(result.chosen)


def _is_final(layer: int | None, final: int | None) -> bool:
    return layer is None or (final is not None and layer >= final)


def _undrawn(result: Result, chosen: list[int | None], final: int | None) -> int:
    """1 where the statistics leave out the first token, whose exit wasn't drawn; else 0."""
    n_counted = _number(result.stats.get("total_tokens"))
    return int(len(chosen) > 1 and chosen[0] == final and n_counted == len(chosen) - 1)


def _counts(result: Result, chosen: list[int | None], final: int | None) -> dict[int | None, int]:
    """Decided tokens by layer; empty where the file doesn't say."""
    if chosen:
        return dict(Counter(chosen))
    total, early = (_number(result.stats.get(name)) for name in ("total_tokens", "early_exits"))
    n = sum(result.counted.values())
    counts: Counter[int | None] = Counter()
    for layer, count in result.counted.items():
        counts[final if _is_final(layer, final) else layer] += count
    if total and n == early and final not in counts:
        counts[final] = int(total) - n
    return dict(counts) if counts.total() == total or final in counts else {}


def _exits(counts: np.ndarray, layers: list[int | None]) -> dict[str, float | None]:
    """Exit rate, and depth where the number of layers is known; the last of `layers` is the final one."""
    final = layers[-1]
    depth = None if final is None else float(counts @ [(layer or 0) + 1 for layer in layers]) / (final + 1)
    n = int(counts.sum())
    if not n:
        return {}
    return {"exit_rate": 1 - int(counts[-1]) / n, "mean_depth": None if depth is None else depth / n}


def _quality(pieces: list[str], normal: list[str] | None) -> dict[str, Any]:
    """What tokens say by themselves, and beside those of the prompt's `normal`."""
    if not pieces:
        return {}
    number_of = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, *(normal or [])]))}
    ids = np.array([number_of[piece] for piece in pieces])
    compared = asdict(agreement(ids, np.array([number_of[piece] for piece in normal]))) if normal else {}
    repeats = {"distinct_2": distinct(ids.tolist(), 2), "distinct_3": distinct(ids.tolist(), 3)}
    return compared | repeats | {"longest_loop": longest_loop(ids)}


def _score_names(results: list[Result]) -> dict[str, str]:
    """Column → what it is called: the accuracy score, then the file's own scores that are numbers."""
    accuracy = any(_number(result.evaluation.get("accuracy_score")) is not None for result in results)
    names = {"accuracy_score": "Accuracy score"} if accuracy else {}
    for name in dict.fromkeys(name for result in results for name, _ in _own_scores(result)):
        key = "score_" + re.sub(r"\W+", "_", name)
        names[key if key not in names else f"{key}_{len(names)}"] = f"Score: {name}"
    return names


def _scores(result: Result, names: dict[str, str]) -> dict[str, float | None]:
    own = {f"Score: {name}": score for name, score in _own_scores(result)}
    accuracy = _number(result.evaluation.get("accuracy_score"))
    return {key: accuracy if key == "accuracy_score" else own.get(label) for key, label in names.items()}


def _own_scores(result: Result) -> Iterator[tuple[str, float]]:
    for name, score in _mapping(result.evaluation, "scores").items():
        number = _number(score)
        if number is not None:
            yield text_of(name), number


def _naming(row: int, result: Result, prompts: dict[str, str]) -> dict[str, Any]:
    given, error = result.given, result.given.get("error")
    texts = (given.get("response"), result.evaluation.get("response"))
    text = next((text_of(text) for text in texts if isinstance(text, str)), None)
    return {
        "run_id": str(row),
        "prompt_id": str(result.prompt),
        "prompt": prompts[str(result.prompt)],
        "mode": result.mode,
        "kl_factor": None if result.mode == NORMAL else _number(given.get("kl_factor")),
        "seed": 0,
        "status": ERROR if error else OK,
        "error": text_of(error) if error else None,
        "text": "".join(result.pieces) if text is None and result.pieces else text,
        "n_tokens": len(result.pieces) or len(result.chosen) or _number(result.stats.get("total_tokens")),
        "notes": _notes(result.evaluation),
    }


def _tokens(
    generation: dict[str, Any], pieces: list[str], chosen: list[int | None], undrawn: int
) -> list[dict[str, Any]]:
    """One row per token that has both a text and a layer."""
    naming = {name: generation[name] for name in ("run_id", "prompt_id", "mode", "kl_factor", "seed")}
    return [
        naming | {"position": i, "decided": i >= undrawn, "token": piece, "exit_layer": layer}
        for i, (piece, layer) in enumerate(zip(pieces, chosen, strict=False))
    ]


def _rate(stats: Mapping[str, Any]) -> float | None:
    total, early = _number(stats.get("total_tokens")), _number(stats.get("early_exits"))
    return early / total if total and early is not None else _number(stats.get("early_exit_rate"))


def _notes(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    scores = ", ".join(f"{name} {score}" for name, score in _mapping(evaluation, "scores").items())
    said = evaluation.get("evaluation_text")
    return [(label, text_of(note)) for label, note in (("Scores", scores), ("Evaluation", said)) if note]


def _layer(value: Any) -> int | None:
    """A layer's number; None for the ways to write the final layer without its number: null, -1, infinity."""
    number = _number(value)
    return None if number is None or number < 0 else int(number)


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []


def text_of(value: Any) -> str:
    """As text that UTF-8 can hold: JSON strings may have halves of surrogate pairs."""
    return "" if value is None else str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _number(value: Any) -> float | None:
    """A finite number, also one written as text; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
