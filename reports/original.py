"""The original file format, `early_exit_analysis.json`, and the original functions that drew it.

    results = load_results_json("early_exit_analysis.json")
    generate_multi_prompt_html_visualization(results, "early_exit.html")

A file is a list of `{prompt, results: [{mode, kl_factor | null, response, evaluation}]}`. Files that others wrote, with
keys missing, load and render too. Everything becomes a `Sweep`, so there is one page and not two.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from eexit.schema import ERROR, GENERATIONS, OK, TOKENS
from reports.page import render, write_report
from reports.sweep import NORMAL, NotASweepError, Sweep, assemble, loose

TITLE = "Early exit analysis"


def save_results_json(results: Sequence[Mapping[str, Any]], filename: str | Path = "early_exit_analysis.json") -> Path:
    """Write results in the original shape; returns where they are."""
    path = Path(filename)
    path.write_text(json.dumps(list(results), indent=2), encoding="utf-8")
    return path


def load_results_json(filename: str | Path) -> list[dict[str, Any]]:
    """Read results in the original shape. Raises NotASweepError where the file isn't a list of prompts."""
    try:
        results = json.loads(Path(filename).read_text(encoding="utf-8"))
    except ValueError as error:
        raise NotASweepError(f"{filename} is not JSON: {error}") from error
    if not isinstance(results, list) or not all(isinstance(entry, dict) for entry in results):
        raise NotASweepError(f"{filename} is not a list of {{prompt, results}} as early_exit_analysis.json is")
    return results


def generate_multi_prompt_html_visualization(
    results: Sequence[Mapping[str, Any]],
    output_file: str | Path = "early_exit_visualization.html",
    title: str = TITLE,
) -> Path:
    """Write the report of results in the original shape; returns where it is."""
    return write_report(sweep_of(results), output_file, _text(title))


def create_html_visualization(
    tokens: Sequence[str],
    exit_layers: Sequence[int | None],
    title: str = TITLE,
    output_file: str | Path | None = None,
    exitable_layers: Sequence[int] | None = None,
) -> str:
    """The report of one text: its tokens and the layer each was read from. Returns the HTML, and writes it if asked.

    Without `exitable_layers`, the deepest layer that occurs is taken for the final one.
    """
    evaluation = {"tokens": list(tokens), "chosen_exit_layers": list(exit_layers)}
    result = {"mode": "text", "evaluation": evaluation | {"exitable_layers": list(exitable_layers or [])}}
    title = _text(title)
    sweep = sweep_of([{"prompt": title, "results": [result]}])
    if output_file is not None:
        write_report(sweep, output_file, title)
    return render(sweep, title)


def sweep_of(results: Sequence[Mapping[str, Any]]) -> Sweep:
    """Results in the original shape as a sweep; what they don't say is null."""
    runs = [
        (number, entry, result)
        for number, entry in enumerate(results)
        for result in entry.get("results") or []
        if isinstance(result, Mapping)
    ]
    exitable, final = _layers([result for *_, result in runs])
    generations: list[dict[str, Any]] = []
    tokens: list[dict[str, Any]] = []
    for number, entry, result in runs:
        chosen = [_layer(layer) for layer in _list(_mapping(result, "evaluation"), "chosen_exit_layers")]
        chosen = [layer if layer in exitable else final for layer in chosen]
        generations.append(_generation(str(len(generations)), number, entry, result, chosen, final))
        tokens += _tokens(generations[-1], _pieces(result), chosen)
    frame = pd.DataFrame(generations, columns=[*GENERATIONS.names, "accuracy_score", "notes"])
    numbers = [f.name for f in GENERATIONS if str(f.type) in ("double", "int32")]
    ranks = {layer: rank for rank, layer in enumerate([*exitable, final])}
    counts = np.zeros((len(frame), len(ranks)), dtype=int)
    for row, found in enumerate(frame.pop("exit_layer_counts")):
        for layer, n in found.items():
            if layer in ranks:
                counts[row, ranks[layer]] += n
    texts = pa.table({name: pa.array(frame[name], pa.string()) for name in ("run_id", "prompt_id", "text")})
    return assemble(
        about={},
        exitable_layers=tuple(exitable),
        final_layer=final,
        prompts={str(i): _text(entry.get("prompt")) for i, entry in enumerate(results)},
        generations=frame.astype({**dict.fromkeys([*numbers, "accuracy_score"], float), "seed": int}),
        layer_counts=counts,
        tokens=ds.dataset(pa.Table.from_pylist(tokens, schema=loose(TOKENS))),
        texts=ds.dataset(texts),
    )


def _generation(
    run_id: str,
    number: int,
    entry: Mapping[str, Any],
    result: Mapping[str, Any],
    chosen: list[int | None],
    final: int | None,
) -> dict[str, Any]:
    evaluation = _mapping(result, "evaluation")
    stats = _mapping(evaluation, "early_exit_stats")
    mode = _text(result.get("mode")) or "unnamed"
    error = result.get("error")
    text = next((_text(t) for t in (result.get("response"), evaluation.get("response")) if isinstance(t, str)), None)
    pieces = _pieces(result)
    return {
        "run_id": run_id,
        "prompt_id": str(number),
        "prompt": _text(entry.get("prompt")),
        "mode": mode,
        "kl_factor": None if mode == NORMAL else _number(result.get("kl_factor")),
        "seed": 0,
        "status": ERROR if error else OK,
        "error": _text(error) if error else None,
        "text": "".join(pieces) if text is None and pieces else text,
        "n_tokens": _number(stats.get("total_tokens")) or len(pieces) or None,
        "exit_rate": _rate(stats),
        # Not in the file, but its layers say it where the model's depth is known.
        "mean_depth": None
        if not chosen or final is None
        else sum((c or 0) + 1 for c in chosen) / (len(chosen) * (final + 1)),
        "exit_layer_counts": _distribution(stats, final),
        "accuracy_score": _number(evaluation.get("accuracy_score")),
        "notes": _notes(evaluation),
    }


def _tokens(generation: dict[str, Any], pieces: list[str], chosen: list[int | None]) -> list[dict[str, Any]]:
    """One row per token that has both a text and a layer."""
    naming = {name: generation[name] for name in ("run_id", "prompt_id", "mode", "kl_factor", "seed")}
    return [
        naming | {"position": i, "decided": True, "token": piece, "exit_layer": layer}
        for i, (piece, layer) in enumerate(zip(pieces, chosen, strict=False))
    ]


def _layers(results: list[Mapping[str, Any]]) -> tuple[list[int], int | None]:
    """Exitable layers and the final one; None where no result gives its number.

    Where no result names the exitable layers they are all that occur, but the deepest, which is the final one unless
    that is written in another way.
    """
    listed = (layer for result in results for layer in _list(_mapping(result, "evaluation"), "exitable_layers"))
    exitable = sorted({layer for layer in map(_layer, listed) if layer is not None})
    named = {layer for result in results for layer in _named(result)}
    seen = sorted(layer for layer in named if layer is not None)
    if not exitable:
        exitable = seen if None in named else seen[:-1]
    return exitable, max((layer for layer in seen if layer > max(exitable, default=-1)), default=None)


def _named(result: Mapping[str, Any]) -> list[int | None]:
    """Every layer a result says tokens were read from."""
    evaluation = _mapping(result, "evaluation")
    counted = _mapping(_mapping(evaluation, "early_exit_stats"), "layer_distribution")
    return [_layer(layer) for layer in [*_list(evaluation, "chosen_exit_layers"), *counted]]


def _layer(value: Any) -> int | None:
    """A layer's number; None for the ways to write the final layer without its number: null, -1, infinity."""
    number = _number(value)
    return None if number is None or number < 0 else int(number)


def _pieces(result: Mapping[str, Any]) -> list[str]:
    return [_text(token) for token in _list(_mapping(result, "evaluation"), "tokens")]


def _rate(stats: Mapping[str, Any]) -> float | None:
    total, early = _number(stats.get("total_tokens")), _number(stats.get("early_exits"))
    rate = _number(stats.get("early_exit_rate"))
    return early / total if rate is None and total and early is not None else rate


def _distribution(stats: Mapping[str, Any], final: int | None) -> dict[int | None, int]:
    counts = {_layer(layer): int(_number(n) or 0) for layer, n in _mapping(stats, "layer_distribution").items()}
    return {(final if layer is None else layer): n for layer, n in counts.items()}


def _notes(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    scores = ", ".join(f"{name} {score}" for name, score in _mapping(evaluation, "scores").items())
    said = evaluation.get("evaluation_text")
    return [(label, _text(note)) for label, note in (("Scores", scores), ("Evaluation", said)) if note]


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []


def _text(value: Any) -> str:
    """As text that UTF-8 can hold: JSON strings may have halves of surrogate pairs."""
    return "" if value is None else str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _number(value: Any) -> float | None:
    """A finite number, also one written as text; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
