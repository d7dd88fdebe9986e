"""A finished sweep, as controls, timings and replays use it."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from eexit.errors import UsageError
from eexit.method.custom_manifest import refuse_changed
from eexit.output.locations import redact
from eexit.output.text import did_you_mean, truncate_lines
from eexit.plan.artefacts import READOUT
from eexit.plan.configuration import EARLIER_MARK, is_earlier
from eexit.plan.grid_types import STORED
from eexit.plan.hashes import content_hash
from eexit.plan.runs import OK
from eexit.plan.splits import sampling_units
from eexit.plan.sweep_config import NO_EXITS, SweepConfig
from eexit.quality.cost_per_correct import COLUMNS as OF_RIGHT
from eexit.quality.cost_per_correct import CostPerCorrect, per_right
from eexit.quality.estimates import Estimate
from eexit.results.committed import read_columns
from eexit.results.configuration_means import estimate_ratio, exit_counts, numbers_of
from eexit.results.layout import MANIFEST, Manifest, decode_manifest
from eexit.results.store.folder import Store, open_store
from eexit.results.store.manifest import first_difference, identity_of
from eexit.results.study_tables import TIMINGS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class FinishedSweep:
    """A sweep with all runs committed, and its runs with the columns that were read, which some properties need.

    Shapes: G exitable layers and the final one.
    """

    store: Store
    manifest: Manifest
    runs: pa.Table
    name: str  # the sweep's name in messages
    trusts_code: bool = False  # True if Python code that the model brings may be run

    def config(
        self, way_out: str = ": run that sweep again", with_exits: bool = True, exits: Collection[str] | None = None
    ) -> SweepConfig:
        """Return the configuration that loads the sweep's model.

        Args:
            way_out: The end of the message for a sweep of another version.
            with_exits: If False, the configuration has full depth alone.
            exits: Names of the rules and modes whose functions are needed; None: of all.

        Raises:
            UsageError: For a sweep of another version, or missing or changed custom rules and modes. Also for a model
                with Python code, unless the reader trusts it; the trust of the sweep's author does not count.
        """
        if with_exits:
            needed = [each for each in self.manifest.own if exits is None or each["name"] in exits]
            refuse_changed([each for each in needed if not is_earlier(each["name"])], self.name)
        try:
            held = {**self.manifest.config, **({} if with_exits else NO_EXITS)}
            config = SweepConfig.model_validate(held, context=STORED)
        except ValidationError as error:
            raise UsageError(f"{self.name} is a sweep of another version{way_out}") from error
        if config.trust_remote_code and not self.trusts_code:
            raise UsageError(
                f"model {config.model} of {self.name} brings Python code, which would be run: give --trust-remote-code "
                "if you trust it"
            )
        return config

    @property
    def n_layers(self) -> int:
        return int(self.manifest.model["n_layers"])

    @property
    def exit_layers_G(self) -> list[int]:
        """Exitable layers, then the final one."""
        return [*self.manifest.exitable_layers, self.n_layers - 1]

    @cached_property
    def digest(self) -> str:
        """Hash of the model, the artefacts and all committed runs. Files made from a sweep record this hash."""
        model = {name: value for name, value in identity_of(self.manifest.model).items() if name != "parts"}
        runs = read_columns(self.store, ["run_id", "status", "text"]).to_pylist()
        return content_hash(model, self.manifest.config.get("digests", {}), sorted(runs, key=lambda run: run["run_id"]))

    def digest_as_read(self, config: Mapping[str, Any]) -> str:
        """Return a hash of all that replays depend on: the sweep, and the readout and screen in `config`."""
        return content_hash(
            self.digest, config.get("digests", {}).get(READOUT, config["readout"]), str(config["screen"])
        )

    @cached_property
    def unit_of(self) -> Mapping[str, str]:
        """Prompt id → sampling unit of the prompt (`eexit.plan.splits.sampling_units`)."""
        return sampling_units(self.manifest.config["prompts"])

    @cached_property
    def runs_of_units(self) -> pa.Table:
        """All runs, with the sampling unit (`unit`) and the seed, over which losses are averaged (`draw`)."""
        ids, prompts = (self.runs[name].to_pylist() for name in ("prompt_id", "prompt"))
        unit = [self.unit_of.get(prompt_id, prompt) for prompt_id, prompt in zip(ids, prompts, strict=True)]
        with_draws = self.runs.append_column("draw", self.runs["seed"].cast(pa.string()))
        return with_draws.append_column("unit", pa.array(unit, pa.string()))

    @cached_property
    def done(self) -> Mapping[str, Sequence[Row]]:
        """Successful runs by configuration."""
        found: dict[str, list[Row]] = {}
        for row in self.runs.to_pylist():
            if row["status"] == OK:
                found.setdefault(row["configuration"], []).append(row)
        return found

    @cached_property
    def exit_counts(self) -> Mapping[str, Counter[int]]:
        """Number of decided tokens by configuration and exit layer."""
        return exit_counts(self.runs)

    def exit_share_G(self, key: str) -> list[float]:
        """Return the share of a configuration's decided tokens at each exit layer; NaN without decided tokens."""
        counts = self.exit_counts.get(key, Counter())
        total = counts.total()
        return [counts[layer] / total if total else math.nan for layer in self.exit_layers_G]

    def saved(self, key: str, cost: str) -> Estimate:
        """Return the share of full-depth multiply-adds that a configuration saved: 1 − Σ cost / Σ full over units."""
        runs = self.runs_of_units.filter(pc.field("configuration") == key)
        costs = numbers_of(runs, [cost, "macs_full"])
        ratio = estimate_ratio(
            costs[cost], costs["macs_full"], *(runs[name].to_pylist() for name in ("prompt_id", "unit"))
        )
        return ratio.complement

    @cached_property
    def per_right(self) -> Mapping[str, Mapping[str, CostPerCorrect]]:
        """Cost and tokens of a right answer, by configuration."""
        return per_right(self.runs.select(OF_RIGHT), self.unit_of)

    @cached_property
    def timings(self) -> Sequence[Row]:
        return TIMINGS.rows(self.store)


def read_finished(results: str, columns: Sequence[str], flag: str = "", trusts_code: bool = False) -> FinishedSweep:
    """Read these columns of all runs of a finished sweep. Raise `UsageError` if `results` is not a finished sweep.

    `flag` named the sweep, for messages. With `trusts_code`, Python code that the model brings may be run.
    """
    store, name = open_store(results), f"{flag} {redact(results)}".strip()
    manifest = manifest_of(store, name)
    runs = read_columns(store, list(dict.fromkeys(["run_id", "configuration", *columns])))
    n_runs = n_planned_runs(runs)
    if n_runs < (manifest.n_runs or 0):
        raise UsageError(f"{name} has {n_runs:,} of {manifest.n_runs:,} runs: finish that sweep first")
    return FinishedSweep(store, manifest, runs.select(list(columns)), redact(results), trusts_code)


def n_planned_runs(runs: pa.Table) -> int:
    """Return the number of committed runs, without those of redefined rules and modes, which no plan has."""
    is_run = pc.invert(pc.match_substring(runs["configuration"], EARLIER_MARK))
    n_runs: int = pc.count_distinct(runs["run_id"].filter(is_run)).as_py()
    return n_runs


def manifest_of(store: Store, name: str) -> Manifest:
    """Return the manifest of the results in `store`, called `name` in messages. Raise `UsageError` if there is none."""
    content = store.read(MANIFEST)
    if content is None:
        raise UsageError(f"{name} holds no {MANIFEST}: give the folder of a finished sweep")
    try:
        return decode_manifest(content)
    except ValueError as error:
        raise UsageError(f"{name} is no sweep's folder ({error})") from error


def refuse_changed_model(sweep: FinishedSweep, model: Mapping[str, Any]) -> None:
    """Raise `UsageError` if the model differs from the model in the sweep's manifest."""
    if difference := first_difference(identity_of(sweep.manifest.model), identity_of(model), "model"):
        raise UsageError(
            f"the model of {sweep.name} is not the one that the sweep had ({difference}): "
            "put it back as it was, or run the sweep again"
        )


def refuse_unknown(keys: Sequence[str], known: Sequence[str], name: str, what: str = "configuration") -> None:
    """Raise `UsageError` for a key that is not among the `known` keys of the results with this name."""
    for key in keys:
        if key not in known:
            way_out = did_you_mean(key, known, f"it has {', '.join(truncate_lines(known))}", most=3)
            raise UsageError(f"{name} has no {what} {key}: {way_out}")
