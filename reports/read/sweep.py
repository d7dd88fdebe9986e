"""Loader of a finished or unfinished sweep: Parquet files → pandas frames and Arrow datasets."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from eexit.errors import UsageError
from eexit.plan.configuration import NORMAL, Configuration, Draft, EarlyExit, is_earlier, same_for_every_seed
from eexit.plan.runs import OK
from eexit.plan.splits import sampling_units
from eexit.quality.estimates import MARGIN
from eexit.quality.text_metrics import cut, log_perplexity, loop_share
from eexit.results.committed import OF_TOP_PREDICTIONS
from eexit.results.layout import MANIFEST, decode_manifest
from eexit.results.parquet_files import list_files, read_generations, read_tokens
from eexit.results.store.folder import Store, open_store
from eexit.results.study_table import StudyTable
from eexit.results.study_tables import JUDGEMENTS
from eexit.results.tables import GENERATIONS, OF_PARTS
from eexit.studies.assessment.verdict import Verdict, read_verdict
from eexit.studies.cost_projection import ModelShape
from reports.read.committed_runs import read_committed, read_study_tables
from reports.read.configurations import configurations, with_identity
from reports.read.judgements import Judge, judges_of, with_judgements
from reports.read.rule_parameters import oracles_beside_others

_NESTED = tuple(name for name, field in OF_PARTS.items() if pa.types.is_nested(field.type))
_BULKY = ("text", "prompt_token_ids", "model", "answer", "found_answer", *_NESTED)  # large, and used by no statistic


class NotASweepError(UsageError):
    """Error for a location that holds no sweep. The message is one line that names the location and the way out."""


@dataclass(frozen=True)
class Sweep:
    """All data of a report. Runs are in memory; texts and tokens stay on disk until they are needed.

    Runs that are the same for every seed (`eexit.plan.configuration.depends_on_seed`) occur once, with the lowest seed,
    and `every_seed` is True for them. `generations` has the columns of `eexit.results.tables.GENERATIONS` that hold one
    short value, the configuration's (`configurations.COLUMNS`), and each judge's (`reports.read.judgements`). Further
    columns are `log_perplexity` (nats per token), `loop_share` (longest_loop / n_tokens), `cut`
    (`eexit.quality.text_metrics.cut`) and the sampling unit `unit` (`eexit.plan.splits.sampling_units`). `correct`
    and `cut` are 1 or 0. `tokens` and `texts` are Arrow datasets with columns of `eexit.results.tables.TOKENS` and
    `GENERATIONS`, with rows in no particular order.
    """

    about: dict[str, Any]  # the content of sweep.json; for a file of the original format, its source alone
    exitable_layers: tuple[int, ...]
    final_layer: int | None  # None: not known
    prompts: dict[str, str]  # id → text, in the sweep's order
    generations: pd.DataFrame
    layer_counts: np.ndarray  # runs × exit ranks: number of decided tokens; 0 where not known
    tokens: ds.Dataset
    texts: ds.Dataset
    configurations: tuple[Configuration, ...] = ()  # empty until `assemble`
    scores: dict[str, str] = field(default_factory=dict)  # columns with scores from the file → their labels
    left_out: tuple[str, ...] = ()  # a line for each damaged or foreign file
    studies: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # name of a study table → rows
    n_committed: int = 0  # committed runs, repeats for other seeds included
    n_seeds: int = 1
    unit_costs_of: ModelShape | None = None  # another model whose unit costs are applied too, by the reader's choice
    verdict: Verdict | None = None  # of an assessment, if any
    margin: float = MARGIN  # loss up to which a setting counts as good as full depth: the reader's choice

    @property
    def missing(self) -> list[str]:
        """Names of the planned runs without a committed, undamaged result; empty if there is no plan."""
        seeds, fixed = self.config.get("seeds", []), self.same_for_every_seed
        names = ["configuration", "prompt_id", "seed"]
        landed = {(key, prompt, None if key in fixed else seed) for key, prompt, seed in self.generations[names].values}
        return [
            f"{configuration.key} on prompt {prompt['id']}" + ("" if seed is None else f", seed {seed}")
            for prompt in self.config.get("prompts", [])
            for configuration in self.configurations
            if not is_earlier(configuration.key)
            for seed in ([None] if configuration.key in fixed else seeds)
            if (configuration.key, prompt["id"], seed) not in landed
        ]

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the sweep; empty for a file of the original format."""
        config: dict[str, Any] = self.about.get("config", {})
        return config

    @property
    def is_sampled(self) -> bool:
        """True if tokens were sampled, rather than decoded greedily."""
        return bool(self.config.get("temperature"))

    @property
    def numbers(self) -> dict[str, int]:
        """Configuration key → index in `configurations`."""
        return {configuration.key: number for number, configuration in enumerate(self.configurations)}

    @property
    def same_for_every_seed(self) -> frozenset[str]:
        """Keys of the configurations whose runs are the same for every seed."""
        return same_for_every_seed(self.configurations, self.config.get("temperature"))

    @cached_property
    def judges(self) -> tuple[Judge, ...]:
        return judges_of(self.rows_of(JUDGEMENTS))

    def rows_of(self, table: StudyTable) -> pd.DataFrame:
        """Return the rows of a study table, in the order in which their calls began."""
        return self.studies[table.name] if table.name in self.studies else table.schema.empty_table().to_pandas()

    @property
    def predictions_of_normal(self) -> tuple[dict[str, str], Iterator[pa.RecordBatch]] | None:
        """Run id → prompt id of `normal`, and its tokens for `top_predictions`; None if these were not recorded."""
        if self.final_layer is None or not {*OF_TOP_PREDICTIONS} <= {*self.tokens.schema.names}:
            return None
        runs, columns = self.done[self.done["configuration"] == NORMAL], ["run_id", *OF_TOP_PREDICTIONS]
        tokens = self.tokens.to_batches(columns=columns, filter=pc.field("configuration") == NORMAL)
        return dict(zip(runs["run_id"], runs["prompt_id"], strict=True)), tokens

    @property
    def layers(self) -> list[int]:
        """Exitable layers, then the final one, if its number is known."""
        return [*self.exitable_layers, *([] if self.final_layer is None else [self.final_layer])]

    @property
    def extra(self) -> list[str]:
        """Columns of runs that only this sweep has: scores from the file, and judges' scores."""
        return [*self.scores, *(column for judge in self.judges for column in judge.columns)]

    @property
    def marked(self) -> frozenset[str]:
        """The rules that labels mark as oracles."""
        return oracles_beside_others(c.rule for c in self.configurations if isinstance(c, EarlyExit))

    @property
    def without_drafts(self) -> "Sweep":
        """The same sweep without drafts, for statistics of exits: drafts emit every token from full depth."""
        return replace(self, configurations=tuple(c for c in self.configurations if not isinstance(c, Draft)))

    @property
    def has_answers(self) -> bool:
        """True if any run was marked as right or wrong."""
        return bool(self.done["correct"].notna().any())

    @property
    def done(self) -> pd.DataFrame:
        """The runs without an error, over which all means are computed."""
        return self.generations[self.generations["status"] == OK]

    @property
    def failed(self) -> pd.DataFrame:
        return self.generations[self.generations["status"] != OK]


def read_sweep(results: str) -> Sweep:
    """Read the folder of a sweep. `results` is a local path or a URI that pyarrow can open (s3://, gs://).

    Raise `NotASweepError` if there is no sweep.json of this format.
    """
    location = _open(results)
    about = _read_about(results, location)
    exitable, final = tuple(about["exitable_layers"]), about["model"]["n_layers"] - 1
    landed = read_committed(location, [name for name in GENERATIONS.names if name not in _BULKY])
    rows = landed.rows
    of_prompts = rows.select(["prompt_id", "prompt"]).group_by("prompt_id", use_threads=False)
    named = of_prompts.aggregate([("prompt", "first")])
    studies, without = read_study_tables(location)
    verdict, unreadable = read_verdict(location)
    return assemble(
        Sweep(
            about=about,
            exitable_layers=exitable,
            final_layer=final,
            prompts={prompt["id"]: prompt["prompt"] for prompt in about["config"].get("prompts", [])}
            | dict(zip(named["prompt_id"].to_pylist(), named["prompt_first"].to_pylist(), strict=True)),
            generations=rows.drop_columns(["prompt", "exit_layer_counts"]).to_pandas(),
            layer_counts=_count_matrix(rows["exit_layer_counts"], [*exitable, final]),
            tokens=landed.tokens,
            texts=landed.texts,
            left_out=(*landed.left_out, *without, *unreadable),
            studies=studies,
            verdict=verdict,
        )
    )


def refuse_damage(results: str) -> None:
    """Raise `DamagedError` for the first damaged shard, after reading every byte of the files, remote ones too."""
    location = _open(results)
    for stem in list_files(location).stems:
        read_tokens(location, read_generations(location, stem))


def assemble(read: Sweep) -> Sweep:
    """Return the sweep with its configurations, the columns derived from runs, and the judges' columns.

    Runs are sorted by prompt, configuration and seed. Repeated runs that are the same for every seed are removed, with
    their judgements.
    """
    generations = with_identity(read.generations)
    n_tokens = generations["n_tokens"].to_numpy(dtype=float, na_value=np.nan)
    generations = generations.assign(
        log_perplexity=log_perplexity(generations["perplexity"].to_numpy(dtype=float)),
        loop_share=loop_share(generations["longest_loop"].to_numpy(dtype=float, na_value=np.nan), n_tokens),
        correct=generations["correct"].astype(float),
        cut=cut(generations["finish_reason"].tolist(), generations["correct"].notna().to_numpy()),
        unit=generations["prompt_id"].map({**read.prompts, **sampling_units(read.config.get("prompts", []))}),
    )
    sweep = replace(read, configurations=configurations(read.about, generations))
    by = pd.DataFrame(
        {
            "prompt": generations["prompt_id"].map({prompt_id: i for i, prompt_id in enumerate(read.prompts)}),
            "configuration": generations["configuration"].map(sweep.numbers),
            "seed": generations["seed"],
        }
    )
    order = by.sort_values(["prompt", "configuration", "seed"], kind="stable").index.to_numpy(dtype=int)
    fixed = sweep.same_for_every_seed
    is_again = _is_again(generations.iloc[order], fixed)
    n_committed, n_seeds = len(generations), int(generations["seed"].nunique())
    judged = sweep.rows_of(JUDGEMENTS)
    judged = judged[~judged["run_id"].isin(generations["run_id"].iloc[order[is_again]])]
    kept = order[~is_again]
    generations = generations.iloc[kept].reset_index(drop=True)
    generations["every_seed"] = generations["configuration"].isin(fixed) & (n_seeds > 1)
    return replace(
        sweep,
        generations=with_judgements(generations, judged),
        layer_counts=read.layer_counts[kept],
        studies={**read.studies, JUDGEMENTS.name: judged},
        n_committed=n_committed,
        n_seeds=n_seeds,
    )


def _is_again(generations: pd.DataFrame, fixed: Collection[str]) -> np.ndarray:
    """Return a mask of redundant runs: further seeds of a prompt in configurations `fixed`, whose seeds run alike.

    One run of each prompt and configuration is kept, without an error if there is such a run.
    """
    good_first = (generations["status"] != OK).to_numpy().argsort(kind="stable")
    repeats = generations.iloc[good_first].duplicated(["prompt_id", "configuration"]).to_numpy()
    is_repeat = np.empty(len(generations), dtype=bool)
    is_repeat[good_first] = repeats
    is_again: np.ndarray = is_repeat & generations["configuration"].isin(fixed).to_numpy()
    return is_again


def disagreeing(tokens: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Return a mask of the decided tokens that differ from full depth's most likely one. Both must be recorded."""
    differs = np.asarray(tokens["token_id"]) != np.asarray(tokens["final_token_id"])
    disagreeing: np.ndarray = np.asarray(tokens["decided"].fill_null(True)).astype(bool) & differs
    return disagreeing


def index_of_runs(tokens: pa.RecordBatch, index: pd.Index) -> np.ndarray:
    """Return the index of each token's run in `index`; −1 where `index` lacks the run."""
    if not len(tokens):
        return np.array([], dtype=int)
    names = tokens.column("run_id").dictionary_encode()
    run_index: np.ndarray = index.get_indexer(names.dictionary.to_pylist())[np.asarray(names.indices)]
    return run_index


def _open(results: str) -> Store:
    store = open_store(results)
    if not store.is_there:
        raise NotASweepError(
            f"no such folder: {results} (give the folder a sweep wrote, the one with sweep.json in it)"
        )
    return store


def _read_about(results: str, store: Store) -> dict[str, Any]:
    content = store.read(MANIFEST)
    if content is None:
        raise NotASweepError(f"not a sweep: {results} has no {MANIFEST}")
    try:
        return vars(decode_manifest(content))
    except ValueError as error:
        raise NotASweepError(f"not a sweep, or damaged: {results}/{MANIFEST} ({error})") from error


def _count_matrix(column: pa.ChunkedArray, layers: list[int]) -> np.ndarray:
    """Return a column of maps from layer to number of tokens, as an array of rows × layers."""
    keys = pa.array(layers, column.type.key_type)
    counts = [pc.map_lookup(column, query_key=key, occurrence="first").fill_null(0) for key in keys]
    return np.stack([np.asarray(of_layer, dtype=np.int64) for of_layer in counts], axis=1)
