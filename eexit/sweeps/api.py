"""Sweeps in a notebook: `eexit.sweep` runs one in this process, and `eexit.open` opens the results of any.

sweep = eexit.sweep(["Explain recursion.", {"prompt": "3 + 4?", "answer": "7"}], rules={"confidence": [0.7, 0.9]})
sweep.runs      # a DataFrame, a row per run; sweep.tokens has a row per token
"""

import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, overload

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.errors import Interrupted, UsageError
from eexit.output.display import open_display
from eexit.output.locations import path_from, redact
from eexit.output.result_table import ResultTable
from eexit.output.text import describe_precision
from eexit.plan.configuration import NORMAL, Configuration, configuration_of, depends_on_seed
from eexit.plan.prompts import prompts_of
from eexit.plan.runs import OK
from eexit.plan.splits import kinds, sampling_units
from eexit.quality.by_kind import COLUMNS, by_kind
from eexit.results.committed import predictions_of, read_columns, runs_with_tokens
from eexit.results.finished_sweep import manifest_of, n_planned_runs
from eexit.results.layout import REPORT, Manifest, side_folder_name
from eexit.results.parquet_files import DamagedError, conform, list_files, read_shards, read_tokens
from eexit.results.shown_names import shown_names, with_shown_names
from eexit.results.shrink import remove_configurations
from eexit.results.store.folder import open_store
from eexit.results.tables import GENERATIONS, TOKENS
from eexit.sweeps.arguments import SweepSpec, arguments_named, from_python, signature_of
from eexit.sweeps.summary.certainty import SURE, confidence_by_depth
from eexit.sweeps.summary.coloured_texts import MOST_PROMPTS, table_as_html, texts_as_html
from eexit.sweeps.summary.paired_difference import paired_difference
from eexit.sweeps.summary.summary_table import closing_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from eexit.sweeps.local import Loaded

    ModelArgument: TypeAlias = str | Path | PreTrainedModel

# Arguments about loading a model, which have no effect on a loaded one.
OF_LOADING: Final = ("revision", "trust_remote_code", "dtype", "quantize", "device")
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
        same = {each.key for each in planned if not depends_on_seed(each, config["temperature"])}
        computed = describe_precision(self.manifest.model, self.manifest.dtype_asked)
        table = closing_table(self._store, planned, same, config["prompts"], computed)
        table.caption = "\n".join([*self._missing_runs(), str(table.caption)])
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
        fixed = {each.key for each in planned if not depends_on_seed(each, config["temperature"])}
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

    def _missing_runs(self) -> list[str]:
        """Return a line about the committed part of a sweep; no line for a finished sweep."""
        if not (committed := self.progress()):
            return []
        n_prompts = len(self.manifest.config["prompts"])
        of_prompts = pc.count_distinct(read_columns(self._store, ["prompt_id"])["prompt_id"]).as_py()
        of_all = f"of {of_prompts:,} of {n_prompts:,} prompts"
        return [f"Unfinished: {committed} are committed, {of_all}. Means are over these runs."]

    def _in_order(self, rows: pa.Table, *then: str) -> pd.DataFrame:
        prompts = {prompt["id"]: at for at, prompt in enumerate(self.manifest.config["prompts"])}
        keys = {columns["key"]: at for at, columns in enumerate(self.manifest.configurations)}
        frame: pd.DataFrame = rows.to_pandas()
        order = pd.DataFrame(
            {"prompt": frame["prompt_id"].map(prompts), "seed": frame["seed"], "key": frame["configuration"].map(keys)}
        ).assign(**{name: frame[name] for name in then})
        return frame.loc[order.sort_values([*order.columns]).index].reset_index(drop=True)


@overload
def sweep(
    prompts: Any, *, model: "ModelArgument" = ..., tokenizer: Any = ..., out: str | Path | None = ...,
    quiet: bool = ..., **arguments: Any,
) -> SweepResults: ...  # fmt: skip


@overload
def sweep(
    prompts: Any, *, model: "Sequence[ModelArgument]", tokenizer: Any = ..., out: str | Path | None = ...,
    quiet: bool = ..., **arguments: Any,
) -> list[SweepResults]: ...  # fmt: skip


def sweep(
    prompts: Any,
    *,
    model: "ModelArgument | Sequence[ModelArgument]" = "smollm2-135m",
    tokenizer: Any = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **arguments: Any,
) -> SweepResults | list[SweepResults]:
    """Run prompts under each configuration and seed in this process, or resume such a sweep; return the results.

    The size of the work is printed before it starts. At a prompt or in a notebook, Ctrl-C returns the committed
    results, and the same call with their `out` resumes. Raise `ValueError` with a line that names an invalid argument,
    or `SweepStopped` when continuing would only fail. Committed runs stay in `out`.

    Args:
        prompts: a list of texts or dicts, a DataFrame, or the path of a file of prompts. Dicts and columns have the
            fields of such a file: `prompt`, and others such as `answer`.
        model: a name, a folder, a GGUF file or, with its `tokenizer`, a loaded model, which stays unchanged. A list of
            such models gives a list of results, one per model, each in a folder of `out` with the model's name.
        tokenizer: the loaded model's; of several models, a list with None for those that are named.
        out: a folder or URI; the command can resume the sweep there too, and committed runs are not repeated. By
            default a temporary folder, removed with the returned object, except for a report in it.
        quiet: show no progress.
        arguments: the flags of `eexit sweep`, by the same names: `rules={"confidence": [0.7, 0.9]}`, `modes`,
            `exit_layers`, `max_new_tokens`, `seeds`, `dtype`, `device` and so on.
    """
    with arguments_named(SweepSpec):
        if not isinstance(model, list | tuple):
            return _sweep_one(*_plan_sweep(prompts, model, tokenizer, out, arguments), quiet)
        tokenizers = [None] * len(model) if tokenizer is None else tokenizer
        if not isinstance(tokenizers, list | tuple) or len(tokenizers) != len(model):
            raise UsageError(f"tokenizer must be a list of {len(model)}, one for each model, with None for named ones")
        outs, prompts = _folders_of(model, out), prompts_of(prompts)
        return _sweep_each(
            [_plan_sweep(prompts, *each, arguments) for each in zip(model, tokenizers, outs, strict=True)], quiet
        )  # all models are refused or accepted before the first one runs


def _plan_sweep(
    prompts: Any, model: Any, tokenizer: Any, out: str | Path | None, arguments: Mapping[str, Any]
) -> "tuple[SweepSpec, Loaded | None, bool]":
    """Return the sweep that a call describes, its loaded model if any, and True if its folder was named."""
    loaded = _loaded(model, tokenizer, arguments)
    of_model = {"model": model} if loaded is None else _fields_of(loaded)
    given = {**arguments, **of_model, **({} if out is None else {"out": out})}
    return from_python(SweepSpec, prompts, given, "eexit.sweep"), loaded, out is not None


def _folders_of(models: Sequence[Any], out: str | Path | None) -> list[str | None]:
    """Return each model's folder in `out`. Raise `UsageError` if there are no models, or two have one name."""
    if not models:
        raise UsageError("model is an empty list: give at least one model")
    if out is None:
        return [None] * len(models)
    names = [
        str(model) if isinstance(model, str | Path) else getattr(getattr(model, "config", None), "name_or_path", "")
        for model in models
    ]
    folders = [Path(name or "model").name.removesuffix(".gguf") for name in names]
    if repeated := [name for name in folders if folders.count(name) > 1]:
        raise UsageError(
            f"two models would have the folder {repeated[0]} of out: sweep them one by one, each with an out"
        )
    return [f"{str(out).rstrip('/')}/{name}" for name in folders]


def _sweep_each(planned: "Sequence[tuple[SweepSpec, Loaded | None, bool]]", quiet: bool) -> list[SweepResults]:
    """Run the sweeps one by one, and return the results; after Ctrl-C, those of the models so far."""
    found: list[SweepResults] = []
    for number, each in enumerate(planned, 1):
        open_display(quiet).say(f"model {number} of {len(planned)}: {each[0].config.model}")
        try:
            found.append(_sweep_one(*each, quiet))
        except Interrupted as interrupted:
            if not found:
                raise
            print(interrupted, file=sys.stderr)
            break
        if found[-1].progress():
            break
    return found


def _sweep_one(asked: SweepSpec, loaded: "Loaded | None", is_kept: bool, quiet: bool) -> SweepResults:
    if is_kept:
        return _swept(asked, loaded, quiet)
    folder = tempfile.mkdtemp(prefix="eexit-")
    try:
        done = _swept(asked.model_copy(update={"out": folder}), loaded, quiet)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(done, _remove_results, folder)
    return done


def open(results: str | Path) -> SweepResults:
    """Return the results of a sweep in a folder or URI, whoever made them. Raise `ValueError` if there are none.

    Print a line about an unfinished sweep.
    """
    is_uri = isinstance(results, str) and "://" in results
    opened = SweepResults(str(results if is_uri else path_from(results, "results")))
    with suppress(DamagedError):  # which reading the results raises
        if committed := opened.progress():
            print(f"{redact(opened.out)} is unfinished: it has {committed}", file=sys.stderr)
    return opened


def _swept(asked: SweepSpec, loaded: "Loaded | None", quiet: bool) -> SweepResults:
    display, out = open_display(quiet), asked.out if "://" in asked.out else os.path.abspath(asked.out)
    try:
        from eexit.sweeps.local import sweep_here  # imported here and below, since reading results needs no torch

        summary = sweep_here(asked, out, display, loaded)
    except KeyboardInterrupt:
        if not hasattr(sys, "ps1"):  # a script ends; at a prompt or in a notebook, the user continues
            raise
        return _interrupted(out)
    if summary.errors:
        display.say(f"{summary.of_errors}; column error of the runs has all")
    return SweepResults(summary.out)


def _interrupted(out: str) -> SweepResults:
    """Return an interrupted sweep's committed results, and print how to resume it. Raise `Interrupted` without any."""
    try:
        results = SweepResults(out)
    except UsageError:
        raise Interrupted("interrupted: no run is committed") from None
    committed = results.progress() or "all runs"
    print(f"interrupted: {committed} committed; the same call with out={redact(out)!r} resumes", file=sys.stderr)
    return results


def _remove_results(folder: str) -> None:
    """Remove a temporary sweep, except for its report, whose path the caller has."""
    for path in Path(folder).iterdir():
        if path.is_dir() and path.name != side_folder_name(REPORT):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path.name != REPORT:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # the folder contains a report
        os.rmdir(folder)


def _loaded(model: Any, tokenizer: Any, arguments: Mapping[str, Any]) -> "Loaded | None":
    """Return the loaded model with its tokenizer; None if `model` is a name.

    Raise `UsageError` for a model that can't be used, a missing tokenizer, and arguments without effect.
    """
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise UsageError("tokenizer has no effect: a model that is named brings its own, so leave it out")
        return None
    from torch import nn
    from transformers import PreTrainedModel

    from eexit.model.support import naming, refuse_compiled, refuse_unmerged

    if isinstance(model, nn.Module):  # first, since a wrapped model may not be a PreTrainedModel
        with naming(type(model).__name__):
            refuse_compiled(model)  # since a copy would not be compiled
            refuse_unmerged(model)
    if not isinstance(model, PreTrainedModel):
        raise UsageError(f"model must be a name, a path or a model of transformers, got {str(model)[:40]!r}")
    if tokenizer is None:
        raise UsageError("tokenizer is missing: give the one of the loaded model")
    if named := [name for name in OF_LOADING if name in arguments]:
        raise UsageError(f"{named[0]} has no effect on a model that is loaded: leave it out, or give the model's name")
    return model, tokenizer


def _fields_of(loaded: "Loaded") -> dict[str, Any]:
    from eexit.model.quantization import dtype_name
    from eexit.plan.model_description import name_of

    return {"model": name_of(loaded[0]), "dtype": dtype_name(loaded[0].dtype)}


sweep.__signature__ = signature_of(SweepSpec, tokenizer=None, out=None, quiet=False)  # type: ignore[attr-defined]
