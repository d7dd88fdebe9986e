"""Results of one model, of a sweep or of an assessment, as values by prompt.

Layers are read on the texts of `normal`. An assessment records the final layer alone there, but all layers on the texts
of its oracle, which keeps full depth's tokens.

Shapes: C thresholds, R runs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.errors import UsageError
from eexit.output.locations import inside, redact
from eexit.output.text import pluralize
from eexit.plan.configuration import NORMAL, EarlyExit
from eexit.plan.runs import ERROR, OK
from eexit.plan.splits import sampling_units
from eexit.quality.by_kind import COLUMNS as OF_KINDS
from eexit.quality.by_kind import PairedMetrics, by_kind
from eexit.quality.estimates import NOTHING, Estimate
from eexit.results.committed import predictions_of
from eexit.results.configuration_means import estimate_ratio, numbers_of
from eexit.results.finished_sweep import FinishedSweep, read_finished, refuse_changed_model
from eexit.results.layout import MANIFEST, REPORT, Manifest
from eexit.results.store.folder import open_store
from eexit.studies.assessment.verdict import FILE, Verdict, read_verdict
from eexit.studies.replay.shortlist import EXACT, ORACLE
from eexit.studies.timing.speedups import speedups_of
from eexit.sweeps.summary.certainty import ALL, SURE, count_certainty

RUN, ORACLES = STEPS = ("run", "oracles")  # folders of an assessment
ORACLE_KEY: Final = EarlyExit(EXACT, ORACLE).key
CORRECT, SKIPPED = "correct", "oracle_skipped"
AGREEMENT, CONFIRMED, EXITED = OF_LAYERS = ("agreement", "confirmed", "oracle_exited")
OF_PROMPT: Final = ("prompt", "system", "prefiller", "max_new_tokens")  # what makes it the same prompt
COLUMNS: Final = (*OF_KINDS, "run_id", "macs_required", "exit_layer_counts")


@dataclass(frozen=True)
class ModelResults:
    """Results of one model: its sweeps, and its assessment's verdict if it has one."""

    results: str
    sweeps: Sequence[FinishedSweep]
    verdict: Verdict | None
    unread: Sequence[str] = ()  # lines on files that can't be read

    @property
    def manifest(self) -> Manifest:
        return self.sweeps[0].manifest

    @property
    def layers(self) -> list[int]:
        """Exitable layers, then the final one."""
        return self.sweeps[0].exit_layers_G

    @property
    def report(self) -> Path | None:
        """The report, if it is on this machine."""
        store = self.sweeps[0].store
        path = Path(store.path(REPORT))
        return path if store.is_local and path.is_file() else None

    @cached_property
    def key_of(self) -> Mapping[str, str]:
        """Prompt id → text of all fields in `OF_PROMPT`, by which prompts of several sweeps are the same."""
        prompts = (prompt for sweep in self.sweeps for prompt in sweep.manifest.config["prompts"])
        return {prompt["id"]: json.dumps([prompt.get(name) for name in OF_PROMPT]) for prompt in prompts}

    @cached_property
    def prompts(self) -> Mapping[str, Mapping[str, Any]]:
        """Prompts by their key."""
        prompts = (prompt for sweep in self.sweeps for prompt in sweep.manifest.config["prompts"])
        return {self.key_of[prompt["id"]]: prompt for prompt in prompts}

    @cached_property
    def unit_of(self) -> Mapping[str, str]:
        """Prompt key → sampling unit."""
        return {self.key_of[each]: unit for each, unit in self._unit_of_id.items()}

    @cached_property
    def _unit_of_id(self) -> Mapping[str, str]:
        return sampling_units([prompt for sweep in self.sweeps for prompt in sweep.manifest.config["prompts"]])

    @cached_property
    def runs(self) -> pa.Table:
        return pa.concat_tables([sweep.runs for sweep in self.sweeps])

    @cached_property
    def values(self) -> pd.DataFrame:
        """A row per prompt key with successful runs, seeds averaged; NaN marks unknown values.

        `correct` is full depth's, and `oracle_skipped` the share of layers that the oracle skips in the exact KV cache.
        A layer has three columns, named by `column_of`. The agreement is the share of decided tokens for which the
        layer predicts the final layer's. Confirmed is the share for which it also is sure, and exited the share that
        the oracle lets exit there or before.
        """
        frames = [self._correct(), self._exits(), self._readings()]
        return pd.concat(frames).groupby(level=0).mean().dropna(how="all")

    def _done(self, key: str) -> pd.DataFrame:
        wanted = (pc.field("configuration") == key) & (pc.field("status") == OK)
        runs: pd.DataFrame = self.runs.filter(wanted).to_pandas()
        return runs.set_index(runs["prompt_id"].map(self.key_of))

    def _correct(self) -> pd.DataFrame:
        return self._done(NORMAL)[[CORRECT]].astype(float)

    def _exits(self) -> pd.DataFrame:
        runs = self._done(ORACLE_KEY)
        counts = np.array([[dict(each).get(layer, 0) for layer in self.layers] for each in runs["exit_layer_counts"]])
        with np.errstate(invalid="ignore"):
            exited = counts.reshape(-1, len(self.layers)).cumsum(1) / counts.sum(-1).reshape(-1, 1)
        found = self._by_layer(EXITED, exited, runs.index)
        return found.assign(**{SKIPPED: 1 - runs["mean_depth"].astype(float)})

    def _readings(self) -> pd.DataFrame:
        for key in (NORMAL, ORACLE_KEY):
            found = [frame for sweep in self.sweeps for frame in self._readings_of(sweep, key)]
            if found:
                return pd.concat(found)
        return self._by_layer(AGREEMENT, np.empty((0, len(self.layers))), pd.Index([]))

    def _readings_of(self, sweep: FinishedSweep, key: str) -> Sequence[pd.DataFrame]:
        prompt_of_run, tokens = predictions_of(sweep.store, key)
        counts = count_certainty(tokens, [*prompt_of_run], len(self.layers), (0.0, SURE))
        known_R = counts.n_R > 0
        if not known_R.any():
            return []
        keys = pd.Index([self.key_of[prompt] for prompt in prompt_of_run.values()])[known_R]
        share_CRX = counts.confirmed[:, known_R] / counts.n_R[known_R, None]
        named = zip((AGREEMENT, CONFIRMED), share_CRX, strict=True)
        return [pd.concat([self._by_layer(name, share_RX, keys) for name, share_RX in named], axis=1)]

    def _by_layer(self, measure: str, values_RX: np.ndarray, keys: pd.Index) -> pd.DataFrame:
        return pd.DataFrame(values_RX, keys, [column_of(measure, layer) for layer in self.layers])

    def metrics(self, prompts: Sequence[str]) -> dict[str, tuple[PairedMetrics, Estimate]]:
        """Return each configuration's metrics, and its saving if deciding were free, over the prompts with these keys.

        Without `normal`, nothing is paired, and there are none.
        """
        wanted = {each for each, key in self.key_of.items() if key in {*prompts}}
        found = by_kind(self.runs.select(OF_KINDS), dict.fromkeys(wanted, ALL), self._unit_of_id)
        return {key: (of[ALL], self._saved_if_free(key, wanted)) for key, of in found.items() if key != NORMAL}

    def _saved_if_free(self, key: str, wanted: set[str]) -> Estimate:
        of_key = (pc.field("configuration") == key) & pc.field("prompt_id").isin(pa.array([*wanted], pa.string()))
        runs = self.runs.filter(of_key & (pc.field("status") == OK))
        costs, prompt_R = numbers_of(runs, ["macs_required", "macs_full"]), runs["prompt_id"].to_pylist()
        unit_R = [self._unit_of_id[each] for each in prompt_R]
        return estimate_ratio(costs["macs_required"], costs["macs_full"], prompt_R, unit_R).complement

    def time(self, key: str, beside: str = NORMAL) -> Estimate:
        """Return the time of `key` as a multiple of `beside`'s, over calls; of a sweep, at the smallest batch size."""
        if self.verdict:
            timed = self.verdict.timed.get(key)
            return NOTHING if timed is None else timed.time if beside == NORMAL else timed.of_generate
        found = speedups_of(self.sweeps[0].timings, key, beside)
        return replace(found[0].time, n=found[0].calls) if found else NOTHING

    @property
    def gaps(self) -> list[str]:
        """What the results lack, and what it leaves unknown."""
        found, known = [*self.unread], {*self.values.columns[self.values.notna().any()]}
        failed = pc.sum(pc.equal(self.runs["status"], ERROR)).as_py() or 0
        if failed:
            found.append(f"{pluralize(failed, 'run')} failed, and {'is' if failed == 1 else 'are'} left out of means")
        if NORMAL not in self.runs["configuration"].to_pylist():
            found.append(f"there is no {NORMAL}: right answers at full depth, and losses, are unknown")
        elif CORRECT not in known:
            found.append("no prompt has an answer: right answers at full depth are unknown")
        if not any(name.startswith(AGREEMENT) for name in known):
            found.append(
                f"no layer's top tokens of {NORMAL} are recorded: agreement and confirmed tokens are unknown; sweep "
                "with --record-top-k 1 or more and --record-full-depth all"
            )
        if SKIPPED not in known:
            found.append(f"there is no {ORACLE_KEY}: the layers that the oracle skips are unknown")
        if not self.manifest.model.get("shape"):
            found.append(f"{MANIFEST} has no shape of the model: width, vocabulary, parameters and head are unknown")
        if self.manifest.config.get("adapter"):
            found.append("layers' predictions, and the oracle's, are those of the model without its --adapter")
        return found


def column_of(measure: str, layer: int | None) -> str:
    """Return the column of `ModelResults.values` of a measure, which may be of a layer."""
    return f"{measure}_{layer}" if measure in OF_LAYERS else measure


def read_model_results(results: str) -> ModelResults:
    """Read a finished sweep or assessment. Raise `UsageError` if `results` is neither."""
    store = open_store(results)
    if store.has(MANIFEST):
        verdict, unread = read_verdict(store)
        return ModelResults(results, [read_finished(results, COLUMNS)], verdict, unread)
    folders = [inside(results, step) for step in STEPS]
    if not open_store(folders[0]).has(MANIFEST):
        raise UsageError(
            f"{redact(results)} holds no {MANIFEST} and no {RUN}/{MANIFEST}: give the folder of a finished sweep or "
            "assessment"
        )
    verdict, unread = read_verdict(store)
    if verdict is None and not unread:
        raise UsageError(f"{redact(results)} is an assessment without {FILE}: finish it with the same eexit assess")
    sweeps = [read_finished(folder, COLUMNS) for folder in folders if open_store(folder).has(MANIFEST)]
    for other in sweeps[1:]:
        refuse_changed_model(other, sweeps[0].manifest.model)
    return ModelResults(results, sweeps, verdict, unread)
