"""Results of a sweep as data frames, tables and a report."""

import sys
from collections.abc import Sequence
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.errors import UsageError
from eexit.output.locations import redact
from eexit.output.result_table import ResultTable
from eexit.output.text import describe_precision
from eexit.plan.configuration import NORMAL, Configuration, configuration_of, same_for_every_seed
from eexit.plan.runs import OK
from eexit.plan.splits import kinds, sampling_units
from eexit.quality.by_kind import COLUMNS, by_kind
from eexit.results.committed import predictions_of, read_columns, runs_with_tokens
from eexit.results.finished_sweep import manifest_of, n_planned_runs
from eexit.results.layout import REPORT, Manifest
from eexit.results.parquet_files import DamagedError, conform, list_files, read_shards, read_tokens
from eexit.results.shown_names import shown_names, with_shown_names
from eexit.results.shrink import remove_configurations
from eexit.results.store.folder import open_store
from eexit.results.tables import GENERATIONS, TOKENS
from eexit.sweeps.arguments import SweepSpec, arguments_named
from eexit.sweeps.summary.certainty import SURE, confidence_by_depth
from eexit.sweeps.summary.coloured_texts import MOST_PROMPTS, table_as_html, texts_as_html
from eexit.sweeps.summary.paired_difference import paired_difference
from eexit.sweeps.summary.summary_table import closing_table

# Entry points of functions of a sweep's location and a path, which write the report there and return the path.
REPORT_BUILDERS: Final = "eexit.report_builders"
BY: Final = ("kind", "group", "steps")  # fields by which prompts are divided
SHOWN: Final = ("run_id", "prompt_id", "configuration", "seed", "status", "n_tokens")


class SweepResults:
    """A sweep's results in a folder or URI, `out`. The first access to `runs` and `tokens` reads them."""

    def __init__(self, out: str) -> None:
        """Raise `UsageError` if there are no results in `out`."""
        self.out = out
        self._store = open_store(out)
        manifest_of(self._store, redact(out))

    @property
    def manifest(self) -> Manifest:
        """Current content of `sweep.json`, since a sweep may be extended."""
        return manifest_of(self._store, redact(self.out))

    @property
    def configurations(self) -> list[Configuration]:
        """Planned configurations, in order."""
        return [configuration_of(columns) for columns in self.manifest.configurations]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per run in the order of the plan. Failed runs have the `status` `error`, and the reason in `error`."""
        return self._in_order(read_columns(self._store, GENERATIONS.names))

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """A row per generated token, in the order of `runs`; `kl` (nats) has a number for each exitable layer."""
        tables = [TOKENS.empty_table()]
        for shard in read_shards(self._store, list_files(self._store), []):
            if isinstance(shard, DamagedError):
                raise shard
            tables.append(conform(read_tokens(self._store, shard), TOKENS))
        rows = with_shown_names(pa.concat_tables(tables), shown_names(self._store))
        return self._in_order(rows, "position")

    @property
    def table(self) -> ResultTable:
        """The command's closing table, with a line per configuration. Its caption states if runs are missing."""
        config, planned = self.manifest.config, self.configurations
        same = same_for_every_seed(planned, config["temperature"])
        computed = describe_precision(self.manifest.model, self.manifest.dtype_asked)
        table = closing_table(self._store, planned, same, config["prompts"], computed)
        if committed := self.progress():
            n_prompts = pc.count_distinct(read_columns(self._store, ["prompt_id"])["prompt_id"]).as_py()
            of_all = f"{committed} are committed, of {n_prompts:,} of {len(config['prompts']):,} prompts"
            table.caption = f"Unfinished: {of_all}. Means are over these runs.\n{table.caption}"
        return table

    def confidence_by_depth(self, threshold: float = SURE) -> pd.DataFrame:
        """Return the depth at which tokens of `normal` become certain, a row per kind of prompt (all first) and layer.

        `sure` is the share of tokens with at least this top probability at the layer. `confirmed` is the share in which
        that token is also the final layer's likeliest. `eexit.sweeps.summary.certainty` defines all columns. Raise
        `ValueError` for a `threshold` outside (0, 1], or if top probabilities were not recorded.
        """
        prompt_of, tokens = predictions_of(self._store, NORMAL)
        prompts = self.manifest.config["prompts"]
        found = confidence_by_depth(
            tokens, prompt_of, self._layers, kinds(prompts), sampling_units(prompts), [threshold]
        )
        if found.empty:
            raise UsageError(
                f"{redact(self.out)} has no layer's top tokens of {NORMAL}: sweep with {NORMAL} among the modes, "
                "record_top_k=1 or more and record_full_depth='all'"
            )
        return found

    def by_kind(self) -> pd.DataFrame:
        """Return each configuration's accuracy, losses, depth and savings by kind of prompt, paired with `normal`.

        There is one row per configuration and kind. `eexit.quality.by_kind.PairedMetrics` defines the columns; each has
        its 95 % interval over prompts or groups, and their number (`_low`, `_high`, `_n`). Raise `ValueError` if no
        prompt has a kind.
        """
        prompts = self.manifest.config["prompts"]
        found = by_kind(read_columns(self._store, COLUMNS), self._values_by("kind"), sampling_units(prompts))
        return pd.DataFrame(
            [
                {"configuration": each.key, "kind": kind, **of.columns()}
                for each in self.configurations
                for kind, of in found.get(each.key, {}).items()
            ]
        )

    def paired_difference(self, settings: str, others: str, *, at: str, by: str | None = None) -> pd.DataFrame:
        """Return `settings` less `others` on the same prompts and seeds, at equal depth, cost or threshold.

            sweep.paired_difference("unfrozen", "frozen_residual", at="layers_skipped", by="kind")

        Args:
            settings, others: a mode, a mode and a rule (`unfrozen/confidence`) or a configuration's key. Settings of
                two modes are compared within a rule, exit set and gate.
            at: `layers_skipped` or `macs` compares each setting with the best mix of two of the others, full depth
                included, that skips as many layers or executes as many multiply-adds. A mix draws one of its two
                settings for each prompt. `threshold` compares settings of the same parameter.
            by: `kind`, `group` or `steps` of prompts: adds rows for each value, after those of all prompts.

        Returns:
            A row per setting and value of `by`: `configuration`, the `other` setting or mix, and the differences in
            `correct`, `disagreement`, `layers_skipped` and `saved` (multiply-adds), each with its 95 % interval over
            prompts or groups and their number (`_low`, `_high`, `_n`). Intervals of differences from a mix include the
            error of the mix. The report's "Side by side" has the same numbers.

        Raises:
            ValueError: The sweep lacks such settings, nothing can be compared, or no prompt has a value of `by`.
        """
        config, planned = self.manifest.config, self.configurations
        fixed = same_for_every_seed(planned, config["temperature"])
        done = self.runs[self.runs["status"] == OK]
        done = done.assign(unit=done["prompt_id"].map(sampling_units(config["prompts"])))
        value_of = {} if by is None else self._values_by(by)
        found = paired_difference(done, planned, fixed, settings, others, at, value_of)
        return found.drop(columns="by") if by is None else found.rename(columns={"by": by})

    def _values_by(self, by: str) -> dict[str, Any]:
        """Return prompt id → kind, group or steps. Raise `UsageError` if no prompt has any."""
        prompts = self.manifest.config["prompts"]
        if by not in BY:
            raise UsageError(f"by must be {', '.join(BY)}, got {by!r}")
        value_of = {prompt["id"]: value for prompt in prompts if (value := prompt.get(by)) is not None}
        value_of = kinds(prompts) if by == "kind" else value_of
        if not value_of:
            raise UsageError(f"no prompt of {redact(self.out)} has {by}: give prompts a field {by}")
        return value_of

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one page of HTML, beside the results or to `path`; return its path."""
        if path is None and not self._store.is_local:
            raise UsageError(f"path is missing: the report of {redact(self.out)} is a local file: give its name")
        builders = entry_points(group=REPORT_BUILDERS)
        if not builders:
            raise UsageError(
                "no report builder is installed: install this package with pip, or python jobs/report.py "
                f"{redact(self.out)}"
            )
        written: Path = next(iter(builders)).load()(self.out, path or Path(self._store.path(REPORT)))
        return written

    def __repr__(self) -> str:
        return f"{self.table}\n{redact(self.out)}"

    def _repr_html_(self) -> str:
        """Return the texts of the first prompts, with each token coloured by its exit layer, and the table."""
        config = self.manifest.config
        order = {columns["key"]: at for at, columns in enumerate(self.manifest.configurations)}
        prompts = pa.array([prompt["id"] for prompt in config["prompts"][:MOST_PROMPTS]], pa.string())
        wanted = (pc.field("seed") == config["seeds"][0]) & pc.field("prompt_id").isin(prompts)
        found = runs_with_tokens(
            self._store, SHOWN, wanted & (pc.field("status") == OK), ["token", "exit_layer", "position"]
        )
        runs = sorted(found, key=lambda each: order.get(each[0]["configuration"], len(order)))
        return texts_as_html(config["prompts"], runs, self._layers) + table_as_html(self.table)

    @property
    def _layers(self) -> list[int]:
        """Exitable layers, then the final one."""
        return [*self.manifest.exitable_layers, self.manifest.model["n_layers"] - 1]

    def remove(self, configurations: Sequence[str]) -> None:
        """Remove configurations, by their keys, and their runs from the folder, after printing what goes.

        The rest stays as it is, and the same call as before runs what is missing again. Raise `ValueError` for an
        unknown key or all keys.
        """
        keys = [configurations] if isinstance(configurations, str) else [*configurations]
        with arguments_named(SweepSpec):
            remove_configurations(self._store, redact(self.out), keys, partial(print, file=sys.stderr))
        for cached in ("runs", "tokens"):
            vars(self).pop(cached, None)

    def progress(self) -> str:
        """Return the committed share of an unfinished sweep, such as `121 of 440 runs`; empty for a finished one."""
        planned = self.manifest.n_runs or 0
        n_runs = n_planned_runs(read_columns(self._store, ["run_id", "configuration"]))
        return f"{n_runs:,} of {planned:,} runs" if n_runs < planned else ""

    def _in_order(self, rows: pa.Table, *then: str) -> pd.DataFrame:
        prompts = {prompt["id"]: at for at, prompt in enumerate(self.manifest.config["prompts"])}
        keys = {columns["key"]: at for at, columns in enumerate(self.manifest.configurations)}
        frame: pd.DataFrame = rows.to_pandas()
        order = pd.DataFrame(
            {"prompt": frame["prompt_id"].map(prompts), "seed": frame["seed"], "key": frame["configuration"].map(keys)}
        ).assign(**{name: frame[name] for name in then})
        return frame.loc[order.sort_values([*order.columns]).index].reset_index(drop=True)
