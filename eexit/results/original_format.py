"""Writing and reading the original file format, `early_exit_analysis.json`.

A file is a list of `{prompt, results: [{mode, kl_factor | null, response, evaluation}]}`; `evaluation_of` lists the
keys of an evaluation. Files of other programs can be read too: a missing key, or one with a value of another type,
counts as empty or None.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eexit.output.atomic_files import write_atomic


def evaluation_of(
    *,
    tokens: Sequence[str],
    exit_layers: Sequence[int],
    exitable_layers: Sequence[int],
    decided_at: Mapping[int, int],
    n_prompt_tokens: int,
    mean_depth: float | None,
) -> dict[str, Any]:
    """Return the `evaluation` of one generation.

    `decided_at` counts decided tokens by exit layer; its largest key is the final layer.
    """
    total = sum(decided_at.values())
    early = total - decided_at[max(decided_at)]
    return {
        "response": "".join(tokens),
        "scores": None,
        "accuracy_score": None,
        "early_exit_stats": {
            "total_tokens": total,
            "early_exits": early,
            "early_exit_rate": early / total if total else 0.0,
            "layer_distribution": {str(layer): count for layer, count in decided_at.items() if count},
            "usage": {"prompt_tokens": n_prompt_tokens, "completion_tokens": len(tokens), "mean_depth": mean_depth},
        },
        "evaluation_text": "",
        "chosen_exit_layers": list(exit_layers),
        "tokens": list(tokens),
        "exitable_layers": list(exitable_layers),
    }


def entry_of_text(
    prompt: str, tokens: Sequence[str], exit_layers: Sequence[int | None], exitable_layers: Sequence[int]
) -> dict[str, Any]:
    """Return a prompt's entry in the original format, with one result that has only tokens and their exit layers."""
    evaluation = {
        "tokens": list(tokens),
        "chosen_exit_layers": list(exit_layers),
        "exitable_layers": list(exitable_layers),
    }
    return {"prompt": prompt, "results": [{"mode": "text", "evaluation": evaluation}]}


def write(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write prompts and their results to a file."""
    write_atomic(path, json.dumps(list(entries), indent=2))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a file, one per prompt. Raise `ValueError` if the file is not a list of prompts."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} is not a list of {{prompt, results}} as early_exit_analysis.json is")
    return entries


@dataclass(frozen=True)
class OriginalResult:
    """One entry of a prompt's `results`. A layer is None where the file marks the final layer without a number."""

    prompt: int  # index in the file
    mode: str
    kl_factor: float | None
    error: str | None
    response: str | None
    tokens: list[str]
    chosen_exit_layers: list[int | None]  # exit layer of each token
    exitable_layers: list[int | None]  # as listed; some files list the final layer too
    layer_distribution: dict[int | None, int]  # tokens by layer; some files count early exits only
    total_tokens: float | None
    early_exits: float | None
    early_exit_rate: float | None
    accuracy_score: float | None
    scores: Mapping[str, Any]
    evaluation_text: str


def prompts_of(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the text of each prompt."""
    return [valid_text(entry.get("prompt")) for entry in entries]


def results_of(entries: Sequence[Mapping[str, Any]]) -> list[OriginalResult]:
    """Return the results of all prompts, in the file's order."""
    return [
        _result(number, given)
        for number, entry in enumerate(entries)
        for given in entry.get("results") or []
        if isinstance(given, Mapping)
    ]


def _result(prompt: int, given: Mapping[str, Any]) -> OriginalResult:
    evaluation = _mapping(given, "evaluation")
    stats = _mapping(evaluation, "early_exit_stats")
    responses = (given.get("response"), evaluation.get("response"))
    error, said = given.get("error"), evaluation.get("evaluation_text")
    distribution: Counter[int | None] = Counter()
    for layer, n in _mapping(stats, "layer_distribution").items():
        distribution[_layer(layer)] += int(number_of(n) or 0)
    return OriginalResult(
        prompt=prompt,
        mode=valid_text(given.get("mode")) or "unnamed",
        kl_factor=number_of(given.get("kl_factor")),
        error=valid_text(error) if error else None,
        response=next((valid_text(response) for response in responses if isinstance(response, str)), None),
        tokens=[valid_text(token) for token in _list(evaluation, "tokens")],
        chosen_exit_layers=[_layer(layer) for layer in _list(evaluation, "chosen_exit_layers")],
        exitable_layers=[_layer(layer) for layer in _list(evaluation, "exitable_layers")],
        layer_distribution=dict(distribution),
        total_tokens=number_of(stats.get("total_tokens")),
        early_exits=number_of(stats.get("early_exits")),
        early_exit_rate=number_of(stats.get("early_exit_rate")),
        accuracy_score=number_of(evaluation.get("accuracy_score")),
        scores=_mapping(evaluation, "scores"),
        evaluation_text=valid_text(said) if said else "",
    )


def _layer(value: Any) -> int | None:
    """Return a layer's index; None for null, -1 and infinity, with which some files mark the final layer."""
    number = number_of(value)
    return None if number is None or number < 0 else int(number)


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return found if isinstance(found := value.get(key), Mapping) else {}


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    return found if isinstance(found := value.get(key), list) else []


def valid_text(value: Any) -> str:
    """Return a value as valid UTF-8 text; lone surrogates, which JSON strings may contain, are replaced."""
    return "" if value is None else str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def number_of(value: Any) -> float | None:
    """Return a finite number, also one written as text; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
