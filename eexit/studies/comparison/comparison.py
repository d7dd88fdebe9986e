"""Comparison of several models by relative depth, on the prompts that their sweeps share.

A measure is a share of a prompt's decided tokens or layers. Its interval is over the shared prompts or groups; of two
models, over paired differences. Multiply-adds and times of an assessment are over that assessment's own prompts.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import PurePath
from typing import Any, Final

import pandas as pd

from eexit.errors import UsageError
from eexit.output.locations import redact
from eexit.output.text import did_you_mean, pluralize
from eexit.plan.artefacts import READOUT
from eexit.plan.configuration import GENERATE
from eexit.quality.estimates import NOTHING, Estimate, ValueKind, estimate_columns, means_of_groups
from eexit.quality.intervals import LEVEL
from eexit.results.layout import MANIFEST, Manifest
from eexit.studies.assessment.cells import CELLS
from eexit.studies.comparison.model_results import (
    CORRECT,
    OF_LAYERS,
    SKIPPED,
    ModelResults,
    column_of,
    read_model_results,
)

DEPTHS: Final = {"a quarter": 0.25, "half": 0.5, "three quarters": 0.75}  # of the layers
SHAPE: Final = ("width", "vocabulary", "parameters", "head_in_layers")
MOST_CHARACTERS: Final = 40  # characters of a setting
IN_CONFIG: Final = (
    "max_new_tokens", "temperature", "top_p", "seeds", "system", "prefiller", "control_tokens", "thinking",
    "thinking_until", "screen",
)  # fmt: skip


def settings_of(manifest: Manifest) -> dict[str, Any]:
    """Return the settings of a sweep that its measures depend on, besides the model and the prompts."""
    card, config = manifest.learned.get(READOUT), manifest.config
    return {
        "dtype": manifest.model["dtype"],
        "quantisation": manifest.model.get("quantization"),
        "readout": f"trained {card['what']}" if card else config.get("readout"),
        **{name: config.get(name) for name in IN_CONFIG},
    }


@dataclass(frozen=True)
class Comparison:
    """Results of several models, and the tables that compare them."""

    models: Sequence[ModelResults]

    @cached_property
    def names(self) -> Sequence[str]:
        """Names of the models, with adapter; of models with one name, with the dtype or else the folder."""
        names = [_name(each.manifest) for each in self.models]
        dtypes = [each.manifest.model["dtype"] for each in self.models]
        for facts in (dtypes, [redact(each.results) for each in self.models]):
            longer = [f"{name} {fact}" for name, fact in zip(names, facts, strict=True)]
            names = [
                name if names.count(name) == 1 or longer.count(more) > 1 else more
                for name, more in zip(names, longer, strict=True)
            ]
        return names

    @cached_property
    def shared(self) -> Sequence[str]:
        """Keys of the prompts that all models have successful runs of."""
        return _shared(self.models)

    def prompts_of(self, model: ModelResults) -> Sequence[str]:
        """Return the keys of the shared prompts, or of all prompts of the model if there are none."""
        return self.shared or [*model.values.index]

    @cached_property
    def notes(self) -> Sequence[str]:
        """Lines on everything that differs besides the models, and on what is unknown."""
        gaps = [f"{name}: {gap}" for name, model in zip(self.names, self.models, strict=True) for gap in model.gaps]
        return gaps if len(self.models) < 2 else [*self._about_prompts(), *self._about_settings(), *gaps]

    def _about_prompts(self) -> Iterator[str]:
        n_each = ", ".join(f"{name} {len(each.values):,}" for name, each in zip(self.names, self.models, strict=True))
        if not self.shared:
            yield f"no prompt is shared by all: each model is measured on its own prompts ({n_each})"
        elif any(len(each.values) > len(self.shared) for each in self.models):
            yield f"{len(self.shared):,} prompts are shared, on which all are measured, of {n_each}"
        first, *others = self.models
        for name, other in zip(self.names[1:], others, strict=True):
            both = _shared([first, other])
            if n := sum(_answer(first, key) != _answer(other, key) for key in both):
                yield f"answers differ: {pluralize(n, 'shared prompt')} with another in {name} than in {self.names[0]}"
            if any(first.unit_of[key] != other.unit_of[key] for key in both):
                yield f"groups of prompts differ: those of {self.names[0]} count, not those of {name}"

    def _about_settings(self) -> Iterator[str]:
        settings = [settings_of(each.manifest) for each in self.models]
        for name in settings[0]:
            values = [of[name] for of in settings]
            if any(each != values[0] for each in values):
                of_models = zip(self.names, map(_as_text, values), strict=True)
                yield f"{name} differs: " + ", ".join(f"{value} ({model})" for model, value in of_models)
        models = [each.manifest.model for each in self.models]
        templates = [(model.get("parts") or {}).get("chat template") for model in models]
        is_one_model = all(_identity(each) == _identity(models[0]) for each in models)
        if not is_one_model and None in templates:
            yield f"chat templates may differ: {MANIFEST} does not record them all"
        elif not is_one_model and any(each != templates[0] for each in templates):
            yield "chat templates differ: each model reads the prompts in its own"

    @cached_property
    def unit_of(self) -> Mapping[str, str]:
        """Prompt key → sampling unit, that of the first model with the prompt."""
        return {key: unit for each in reversed(self.models) for key, unit in each.unit_of.items()}

    def _estimates(self, values: pd.DataFrame, kind: ValueKind, level: float = LEVEL) -> dict[Any, Estimate]:
        """Return the estimate of each column over the sampling units of the prompts in the index."""
        means = means_of_groups(values.to_numpy(float), [self.unit_of[key] for key in values.index])
        return dict(zip(values.columns, estimate_columns(means, [kind] * means.shape[1], level), strict=True))

    @cached_property
    def _shares(self) -> Sequence[Mapping[str, Estimate]]:
        """Estimate by column of `ModelResults.values`, of each model."""
        values = (each.values.loc[list(self.prompts_of(each))] for each in self.models)
        return [self._estimates(each, ValueKind.SHARE) for each in values]

    def models_table(self) -> pd.DataFrame:
        """Return a row per model, with estimates in four columns each (`Estimate.columns`)."""
        return pd.DataFrame([self._model(at) for at in range(len(self.models))])

    def _model(self, at: int) -> dict[str, Any]:
        model, shares = self.models[at], self._shares[at]
        manifest, verdict = model.manifest, model.verdict
        shape, setting = manifest.model.get("shape") or {}, verdict.setting if verdict else None
        found: dict[str, Any] = {
            "model": self.names[at],
            "results": redact(model.results),
            "layers": manifest.model["n_layers"],
            **{name: shape.get(name) for name in SHAPE},
            "dtype": manifest.model["dtype"],
            "prompts": len(self.prompts_of(model)),
        }
        estimates = {CORRECT: shares.get(CORRECT, NOTHING), SKIPPED: shares.get(SKIPPED, NOTHING)}
        for depth, layer in zip(DEPTHS, self.layers_at(model), strict=True):
            end = depth.removeprefix("a ").replace(" ", "_")
            found[f"layer_at_{end}"] = layer
            for measure in OF_LAYERS:
                estimates[f"{measure}_at_{end}"] = shares.get(column_of(measure, layer), NOTHING)
        cells = verdict.cells if verdict else {}
        estimates |= {f"cell_{name}": cells[name].saved if name in cells else NOTHING for name in CELLS}
        estimates["saved"] = setting.saved if setting else NOTHING
        estimates["time"] = setting.time if setting else NOTHING
        estimates["time_of_generate"] = model.time(setting.key, GENERATE) if setting else NOTHING
        estimates["generate_time"] = model.time(GENERATE)
        found["setting"] = setting.key if setting else None
        return found | _columns(estimates)

    def layers_at(self, model: ModelResults) -> Sequence[int | None]:
        """Return the exitable layer nearest to each of `DEPTHS`, the earlier of two as near; None without one."""
        exitable, n_layers = model.layers[:-1], model.sweeps[0].n_layers

        def distance(layer: int, depth: float) -> float:
            return abs((layer + 1) / n_layers - depth)

        return [min(exitable, key=lambda layer: distance(layer, depth), default=None) for depth in DEPTHS.values()]

    def depths_table(self) -> pd.DataFrame:
        """Return a row per model and layer, the final one included, with its `depth` as a share of the layers."""
        rows = []
        for name, model, shares in zip(self.names, self.models, self._shares, strict=True):
            for layer in model.layers:
                row = {"model": name, "layer": layer, "depth": (layer + 1) / model.manifest.model["n_layers"]}
                named = {measure: shares.get(column_of(measure, layer), NOTHING) for measure in OF_LAYERS}
                rows.append(row | _columns(named))
        return pd.DataFrame(rows)

    def settings_table(self) -> pd.DataFrame:
        """Return a row per model and early-exit configuration: losses, savings and times beside full depth."""
        rows = []
        for name, model in zip(self.names, self.models, strict=True):
            for key, (metrics, if_free) in model.metrics(self.prompts_of(model)).items():
                named = {
                    "lost": metrics.lost, "disagreement": metrics.disagreement, "saved": metrics.saved,
                    "saved_if_free": if_free, "time": model.time(key), "time_of_generate": model.time(key, GENERATE),
                }  # fmt: skip
                rows.append({"model": name, "configuration": key, **_columns(named)})
        return pd.DataFrame(rows)

    def differences_table(self, confidence: float = LEVEL) -> pd.DataFrame:
        """Return the paired differences of each model from each later one, over the prompts that both have.

        A row has the `measure`, the relative `depth` with the `layer` of either model (NaN for measures of no layer),
        and the `difference` with its interval at this confidence. Pairs that share no prompts have no rows.
        """
        if not 0.5 <= confidence < 1:
            raise UsageError(f"confidence must be at least 0.5 and below 1, as in 0.998, got {confidence:g}")
        pairs = combinations(range(len(self.models)), 2)
        return pd.DataFrame([row for pair in pairs for row in self._differences(*pair, confidence)])

    def _differences(self, one: int, other: int, confidence: float) -> Iterator[dict[str, Any]]:
        first, second = self.models[one], self.models[other]
        layers = [*zip(DEPTHS, self.layers_at(first), self.layers_at(second), strict=True)]
        compared = [(measure, *each) for measure in OF_LAYERS for each in layers]
        compared += [(measure, "", None, None) for measure in (SKIPPED, CORRECT)]
        keys, values = list(_shared([first, second])), dict[int, pd.Series]()
        for at, (measure, _, layer, other_layer) in enumerate(compared):
            columns = column_of(measure, layer), column_of(measure, other_layer)
            if columns[0] in first.values and columns[1] in second.values:
                values[at] = first.values.loc[keys, columns[0]] - second.values.loc[keys, columns[1]]
        found = self._estimates(pd.DataFrame(values, keys), ValueKind.DIFFERENCE, confidence) if keys else {}
        for at, (measure, depth, layer, other_layer) in enumerate(compared):
            if (difference := found.get(at, NOTHING)).n:
                named = {"model": self.names[one], "other": self.names[other], "measure": measure, "depth": depth}
                yield named | {"layer": layer, "other_layer": other_layer} | difference.columns("difference")


TABLES: Final[Mapping[str, Callable[[Comparison], pd.DataFrame]]] = {
    "models": Comparison.models_table,
    "depths": Comparison.depths_table,
    "settings": Comparison.settings_table,
    "differences": Comparison.differences_table,
}


def read_comparison(results: Sequence[Any]) -> Comparison:
    """Read these folders, URIs or `SweepResults`. Raise `UsageError` for an unfinished sweep, or one given twice."""
    locations = [str(getattr(each, "out", each)) for each in results]
    if twice := [name for name, n in Counter(each.rstrip("/") for each in locations).items() if n > 1]:
        raise UsageError(f"{redact(twice[0])} is given twice: give each of the results once")
    if not locations:
        raise UsageError("there are no results to compare: give the folders of finished sweeps or assessments")
    return Comparison([read_model_results(each) for each in locations])


def compare(results: Sequence[Any], table: str = "models", confidence: float | None = None) -> pd.DataFrame:
    """Return a table that compares models, by their finished sweeps and assessments; print what else differs.

        eexit.compare(["results/small", "results/large"])
        eexit.compare(["results/small", "results/large"], "differences", confidence=0.998)

    Args:
        results: folders, URIs or `SweepResults`.
        table: `models`, a row per model; `depths`, a row per model and exitable layer; `settings`, a row per model and
            configuration; or `differences`, paired over prompts, a row per two models, measure and relative depth.
        confidence: of the intervals of `differences`, by default 0.95, which all other intervals have.

    Returns:
        A DataFrame. An estimate has four columns: the mean, its interval and the number of prompts or groups (`_low`,
        `_high`, `_n`). `agreement` is the share of tokens for which a layer predicts the final layer's; `confirmed`, of
        tokens for which the layer also is sure (confidence at least 0.9); `oracle_exited`, of tokens that oracle
        `agree` lets exit there or before; and `oracle_skipped`, the share of layers that it skips.

    Raises:
        ValueError: A sweep is unfinished or given twice, or an argument is invalid.
    """
    if table not in TABLES:
        raise UsageError(f"table must be {', '.join(TABLES)}, got {table!r} {did_you_mean(table, TABLES)}".rstrip())
    if confidence is not None and table != "differences":
        raise UsageError(f"confidence is of table 'differences', not of {table!r}: leave it out")
    comparison = read_comparison([results] if isinstance(results, str | PurePath) else results)
    for note in comparison.notes:
        print(note, file=sys.stderr)
    return comparison.differences_table(confidence) if confidence else TABLES[table](comparison)


def _columns(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    return {column: number for name, each in estimates.items() for column, number in each.columns(name).items()}


def _shared(models: Sequence[ModelResults]) -> Sequence[str]:
    """Return the keys of the prompts that all these models have successful runs of, in the first one's order."""
    common = set.intersection(*({*each.values.index} for each in models))
    return [key for key in models[0].prompts if key in common]


def _name(manifest: Manifest) -> str:
    adapter = manifest.config.get("adapter")
    parts = [str(manifest.config["model"]), *([adapter] if adapter else [])]
    return " + ".join(PurePath(each).name.removesuffix(".gguf") for each in parts)


def _answer(model: ModelResults, key: str) -> tuple[Any, Any]:
    return model.prompts[key].get("answer"), model.prompts[key].get("answer_pattern")


def _identity(model: Mapping[str, Any]) -> list[Any]:
    return [model.get(name) for name in ("name", "revision", "digest")]


def _as_text(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else "none" if value in (None, "") else str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
