"""A finished or unfinished sweep, as the report sees it: Parquet → pandas."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

from eexit.schema import GENERATIONS, OK, TOKENS

NORMAL = "normal"
_LISTS = ("kl", "exit_prob")


class NotASweepError(ValueError):
    """What was given holds no sweep; the message is one line that names it and the way out."""


@dataclass(frozen=True)
class Configuration:
    """A mode and its KL factor, None for `normal`."""

    mode: str
    kl_factor: float | None

    @property
    def key(self) -> str:
        """How it's called in tables and addresses: `normal`, `unfrozen@0.5`."""
        return self.mode if self.kl_factor is None else f"{self.mode}@{self.kl_factor:g}"


@dataclass(frozen=True)
class Sweep:
    """Everything a report is made of.

    `generations`: columns of `eexit.schema.GENERATIONS`, with `configuration` (the key) and `log_perplexity` (nats per
    token) added. `tokens`: the columns of `eexit.schema.TOKENS` that hold one value; those that hold one per layer are
    `kl` (tokens × exitable layers, nats) and `exit_prob` (tokens × exitable layers and final), row by row beside it,
    or None where they weren't recorded.
    """

    about: dict[str, Any]  # the content of sweep.json; empty where there was none
    exitable_layers: tuple[int, ...]
    final_layer: int | None  # None: not known
    prompts: dict[str, str]  # id → text, in the sweep's order
    configurations: tuple[Configuration, ...]
    generations: pd.DataFrame
    tokens: pd.DataFrame
    kl: np.ndarray | None
    exit_prob: np.ndarray | None

    @property
    def done(self) -> pd.DataFrame:
        """The generations that succeeded: the only ones that means are made of."""
        return self.generations[self.generations["status"] == OK]

    @property
    def failed(self) -> pd.DataFrame:
        return self.generations[self.generations["status"] != OK]


def read_sweep(results: str) -> Sweep:
    """Read a sweep's folder, a local path or a URI that pyarrow knows (s3://, gs://).

    Raises NotASweepError where there is no sweep.json of a known format.
    """
    filesystem, root = _open(results)
    about = _read_about(results, filesystem, root)
    generations = _read_table(filesystem, f"{root}/generations", GENERATIONS)
    tokens = _read_table(filesystem, f"{root}/tokens", TOKENS)
    per_layer = {name: _matrix(tokens[name]) for name in _LISTS}
    return assemble(
        about,
        tuple(about["exitable_layers"]),
        about["model"]["n_layers"] - 1,
        generations.to_pandas(),
        tokens.drop_columns(list(_LISTS)).to_pandas(),
        per_layer["kl"],
        per_layer["exit_prob"],
    )


def assemble(
    about: dict[str, Any],
    exitable_layers: tuple[int, ...],
    final_layer: int | None,
    generations: pd.DataFrame,
    tokens: pd.DataFrame,
    kl: np.ndarray | None = None,
    exit_prob: np.ndarray | None = None,
) -> Sweep:
    """Put rows in the sweep's order (prompt, configuration, seed, position) and name their configurations."""
    pairs = zip(generations["mode"], generations["kl_factor"], strict=True)
    found = [Configuration(mode, None if math.isnan(k) else float(k)) for mode, k in pairs]
    configurations = _in_order(_configured(about), found)
    prompts = {p["id"]: p["prompt"] for p in about.get("config", {}).get("prompts", [])}
    prompts |= dict(zip(generations["prompt_id"], generations["prompt"], strict=True))
    generations = generations.assign(
        configuration=[configuration.key for configuration in found],
        log_perplexity=np.log(generations["perplexity"].astype(float)),
    )
    order = {key: rank for rank, key in enumerate(c.key for c in configurations)}, {p: i for i, p in enumerate(prompts)}
    by = pd.DataFrame(
        {"p": generations["prompt_id"].map(order[1]), "c": generations["configuration"].map(order[0])}
    ).assign(s=generations["seed"])
    generations = generations.loc[by.sort_values(["p", "c", "s"], kind="stable").index].reset_index(drop=True)
    run_rank = pd.Series(range(len(generations)), index=generations["run_id"], dtype=float)
    place = pd.DataFrame({"r": tokens["run_id"].map(run_rank), "t": tokens["position"]}).dropna()
    rows = place.sort_values(["r", "t"]).index.to_numpy(dtype=int)
    return Sweep(
        about=about,
        exitable_layers=exitable_layers,
        final_layer=final_layer,
        prompts=prompts,
        configurations=configurations,
        generations=generations,
        tokens=tokens.iloc[rows].reset_index(drop=True),
        kl=None if kl is None else kl[rows],
        exit_prob=None if exit_prob is None else exit_prob[rows],
    )


def _open(results: str) -> tuple[pyarrow.fs.FileSystem, str]:
    if "://" in results:
        filesystem, root = pyarrow.fs.FileSystem.from_uri(results)
    else:
        filesystem, root = pyarrow.fs.LocalFileSystem(), results
    root = root.rstrip("/") or "/"
    if filesystem.get_file_info(root).type != pyarrow.fs.FileType.Directory:
        raise NotASweepError(
            f"no such folder: {results} (give the folder a sweep wrote, the one with sweep.json in it)"
        )
    return filesystem, root


def _read_about(results: str, filesystem: pyarrow.fs.FileSystem, root: str) -> dict[str, Any]:
    path = f"{root}/sweep.json"
    if filesystem.get_file_info(path).type != pyarrow.fs.FileType.File:
        raise NotASweepError(f"not a sweep: {results} has no sweep.json")
    with filesystem.open_input_stream(path) as stream:
        content = stream.read()
    try:
        about = json.loads(content)
    except ValueError as error:
        raise NotASweepError(f"not a sweep: {results}/sweep.json is not JSON ({error})") from error
    if not isinstance(about, dict) or about.get("format") != 1:
        raise NotASweepError(f"not a sweep of a format this version reads (1): {results}/sweep.json")
    missing = [name for name in ("config", "model", "exitable_layers") if name not in about]
    if missing:
        raise NotASweepError(f"not a sweep: {results}/sweep.json lacks {', '.join(missing)}")
    return about


def _read_table(filesystem: pyarrow.fs.FileSystem, folder: str, schema: pa.Schema) -> pa.Table:
    """Every Parquet file of a folder, empty where there is none; columns a file lacks are null."""
    if filesystem.get_file_info(folder).type != pyarrow.fs.FileType.Directory:
        return schema.empty_table()
    loose = pa.schema([field.with_nullable(True) for field in schema])
    return ds.dataset(folder, filesystem=filesystem, format="parquet", schema=loose).to_table()


def _matrix(lists: pa.ChunkedArray) -> np.ndarray | None:
    """Lists of one length as rows × length; None where there are no rows or they weren't recorded."""
    if len(lists) == 0 or lists.null_count:
        return None
    return np.asarray(lists.combine_chunks().flatten()).reshape(len(lists), -1)


def _configured(about: dict[str, Any]) -> Iterable[Configuration]:
    config = about.get("config", {})
    for mode in config.get("modes", []):
        for kl_factor in [None] if mode == NORMAL else sorted(config.get("kl_factors", [])):
            yield Configuration(mode, kl_factor)


def _in_order(configured: Iterable[Configuration], found: list[Configuration]) -> tuple[Configuration, ...]:
    """The configured ones first; what only the rows have comes after, `normal` first and KL factors rising."""
    rest = sorted(
        dict.fromkeys(found), key=lambda c: (c.mode != NORMAL, found.index(_first(found, c.mode)), c.kl_factor or 0)
    )
    return tuple(dict.fromkeys([*configured, *rest]))


def _first(found: list[Configuration], mode: str) -> Configuration:
    return next(configuration for configuration in found if configuration.mode == mode)
