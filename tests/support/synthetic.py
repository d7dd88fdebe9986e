"""A synthetic sweep with the rules of the project, made without a model, that reports are built of.

Texts have Zipf's frequencies; a run follows its prompt's normal run for a while and comes back to stretches of it, as
greedy texts do. KLs fall with depth; the smaller the KL at a token's exit, the more often full depth says the same.
Exits follow the rules themselves.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_costs import run_costs, write_synthetic_timings
from synthetic_rules import decide

from eexit.method.rules import CONTROL, ONLINE, Control
from eexit.plan.configuration import Configuration, Exit, Normal
from eexit.plan.runs import OK
from eexit.results.layout import FOLDERS, MANIFEST, Manifest, encode, generations_name, tokens_name
from eexit.results.tables import GENERATIONS, TOKENS
from eexit.results.token_columns import LENGTH

LAYERS: Final = (5, 10, 15, 20, 25)
N_LAYERS: Final = 28
N_WORDS: Final = 50_000
RETURN_CHANCE: Final = 0.06  # per token, to continue with a stretch of the normal run
STRETCH_TOKENS: Final = 12
WORDS: Final = np.array(
    [
        " " + "".join("bdfgklmnprst"[i // 5 % 12] + "aeiou"[i % 5] for i in (n % 60, n // 60 % 60, n // 3600))
        for n in range(N_WORDS)
    ]
)


def kl_grid() -> list[Configuration]:
    """Normal, and two modes × eight KL factors."""
    return [Normal(), *(Exit(mode, "kl", 2.0**n) for mode in ("unfrozen", "frozen_residual") for n in range(-3, 5))]


def rules_grid() -> list[Configuration]:
    """Normal, and two modes × three rules; those of the first have a control each."""
    found: list[Configuration] = [Normal()]
    for mode in ("unfrozen", "frozen_residual"):
        for k in (0.25, 1.0, 4.0):
            followed = Exit(mode, "kl", k)
            found += [followed, Exit(mode, CONTROL, Control(followed.key, ()))]
        found += [Exit(mode, "fixed", float(layer)) for layer in LAYERS[1:]]
        found.append(Exit(mode, "agree"))
    return found


def every_rule_grid() -> list[Configuration]:
    """Normal, every rule at one or two parameters, and a control of one of them."""
    parameters: dict[str, tuple[float | None, ...]] = {
        "kl": (1.0,), "agree": (None,), "confidence": (0.6, 0.8), "margin": (0.4, 0.7), "entropy": (0.3, 1.0),
        "similarity": (0.95, 0.97), "patience": (2.0, 3.0), "predicted_kl": (1.0, 2.0),
        "fixed": (10.0, 20.0),
    }  # fmt: skip
    found: list[Configuration] = [Normal()]
    found += [Exit("frozen_residual", rule, each) for rule, several in parameters.items() for each in several]
    followed = Exit("frozen_residual", "confidence", 0.8)
    found += [Exit("frozen_residual", CONTROL, Control(followed.key, ()))]
    return [*found, *(Exit("unfrozen", rule, several[0]) for rule, several in parameters.items())]


def write_synthetic_sweep(
    folder: Path,
    n_prompts: int,
    top_k: int = 3,
    grid: Sequence[Configuration] = (),
    n_tokens: int = 400,
    timed: bool = False,
) -> Path:
    """`n_prompts` × `grid` (by default `kl_grid()`) runs of `n_tokens`, with the `top_k` likeliest tokens of layers.

    With `timed`, the runs have timings too.
    """
    grid = grid or kl_grid()
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    draw = np.random.default_rng(0)
    weights = 1 / np.arange(1, N_WORDS + 1) ** 1.05
    weights /= weights.sum()
    generations: list[dict[str, Any]] = []
    tokens: list[pa.Table] = []
    for prompt in range(n_prompts):
        normal = draw.choice(N_WORDS, n_tokens, p=weights)
        counts: dict[str, list[tuple[int, int]]] = {}  # of each configuration: its decided tokens by exit layer
        for configuration in grid:
            exits = _exits(draw, configuration, counts, n_tokens)
            ids, start = _text(draw, weights, normal, exits.harm)
            generation, table = _run(draw, str(prompt), configuration, exits, ids, start, top_k)
            counts[configuration.key] = generation["exit_layer_counts"]
            generations.append(generation)
            tokens.append(table)
    if timed:
        write_synthetic_timings(folder, generations)
    stem = f"{0:032x}"
    pq.write_table(pa.Table.from_pylist(generations, schema=GENERATIONS), folder / generations_name(stem))
    pq.write_table(pa.concat_tables(tokens), folder / tokens_name(stem), compression="zstd")
    (folder / MANIFEST).write_bytes(encode(_manifest(n_prompts, grid, n_tokens)))
    return folder


@dataclass(frozen=True)
class SyntheticExits:
    """Where the n tokens of a run exit, and why; E exitable layers, X = E + 1 exit ranks."""

    hard_n: np.ndarray  # how surprising each token is
    kl_nE: np.ndarray
    agrees_nX: np.ndarray  # whether the layer would say what the final one says
    prob_nX: np.ndarray
    evidence_nE: np.ndarray | None  # NaN where the rule looked at nothing
    rank_n: np.ndarray
    harm: float  # what they do to the text: 0 to 1

    @property
    def same_n(self) -> np.ndarray:
        """Whether the token is what full depth would say."""
        same: np.ndarray = self.agrees_nX[np.arange(len(self.rank_n)), self.rank_n]
        return same


def _exits(
    draw: np.random.Generator, configuration: Configuration, counts: dict[str, list[tuple[int, int]]], n: int
) -> SyntheticExits:
    E = len(LAYERS)
    hard = draw.normal(size=(n, 1))
    kl = np.exp(np.array([1.8, 1.4, 1.0, 0.3, -0.8]) + 1.3 * hard + 0.6 * draw.normal(size=(n, E))).astype(np.float32)
    agrees = np.concatenate([draw.random((n, E)) < np.exp(-kl / 2), np.ones((n, 1), dtype=bool)], axis=1)
    stop, evidence = decide(configuration, LAYERS, kl, agrees, counts)
    left = np.cumprod(1 - stop, axis=1)
    prob = np.concatenate([stop * np.concatenate([np.ones((n, 1)), left[:, :-1]], axis=1), left[:, -1:]], axis=1)
    rank = (1 - left <= draw.random((n, 1))).sum(axis=1)
    harm = float((~agrees[np.arange(n), rank]).mean()) * (1.0 if configuration.mode == "unfrozen" else 1.5)
    if evidence is not None:
        evidence[0] = np.nan
        if isinstance(configuration, Exit) and configuration.rule in ONLINE:  # it looks at no layer beyond the exit
            evidence[np.arange(E) > rank[:, None]] = np.nan
    return SyntheticExits(hard[:, 0], kl, agrees, prob, evidence, rank, harm)


def _text(draw: np.random.Generator, weights: np.ndarray, normal: np.ndarray, harm: float) -> tuple[np.ndarray, int]:
    """Token ids, and how many are those of the normal run before the first that differs."""
    if not harm:
        return normal, len(normal)
    start = int(min(len(normal), draw.exponential(2 / harm) + 2))
    ids = draw.choice(N_WORDS, len(normal), p=weights)
    ids[:start] = normal[:start]
    for index in np.flatnonzero(draw.random(len(ids)) < RETURN_CHANCE):
        if index > start:
            stretch = normal[index : index + STRETCH_TOKENS]
            ids[index : index + len(stretch)] = stretch
    return ids, start


def _run(
    draw: np.random.Generator,
    prompt_id: str,
    configuration: Configuration,
    exits: SyntheticExits,
    ids: np.ndarray,
    start: int,
    top_k: int,
) -> tuple[dict[str, Any], pa.Table]:
    n, E, same = len(ids), len(LAYERS), exits.same_n
    naming = {"run_id": f"{prompt_id}-{configuration.key}", "prompt_id": prompt_id, **configuration.columns, "seed": 0}
    layers = np.array([*LAYERS, N_LAYERS - 1])
    decided = exits.rank_n[1:]
    generation = naming | {
        "prompt": f"Question {prompt_id}: what would a model say that left early?", "model": "synthetic", "status": OK,
        "finish_reason": LENGTH, "text": "".join(WORDS[ids]), "prompt_token_ids": [1], "n_prompt_tokens": 1,
        "n_tokens": n, "exit_rate": float((decided < E).mean()),
        "mean_depth": float((layers[decided] + 1).mean() / N_LAYERS),
        "exit_layer_counts": list(zip(layers.tolist(), np.bincount(decided, minlength=E + 1).tolist(), strict=True)),
        "disagreement": float((~same[1:]).mean()),
        "perplexity": float(np.exp(1 + 3 * exits.harm + 0.1 * draw.normal())),
        "tokens_until_difference": start, "equal_share": start / n, "lcs_share": start / n,
        "distinct_2": len(set(itertools.pairwise(ids.tolist()))) / (n - 1), "distinct_3": 1.0, "longest_loop": 0,
    } | run_costs(configuration, layers[decided], decided, N_LAYERS)  # fmt: skip
    final = np.where(same, ids, draw.integers(0, 2_000, n))
    columns = {name: pa.array([value] * n, TOKENS.field(name).type) for name, value in naming.items()}
    columns |= {
        "position": np.arange(n, dtype=np.int32), "decided": np.arange(n) > 0, "drafted": np.zeros(n, bool),
        "token_id": ids.astype(np.int32), "token": pa.array(WORDS[ids].tolist()),
        "exit_layer": layers[exits.rank_n].astype(np.int32),
        "kl": _lists(exits.kl_nE), "exit_prob": _lists(exits.prob_nX.astype(np.float32)),
        "logprob": (-np.exp(exits.hard_n - 1)).astype(np.float32), "final_token_id": final.astype(np.int32),
        "entropy": np.exp(exits.hard_n).astype(np.float32),
    }  # fmt: skip
    if exits.evidence_nE is not None:
        columns["evidence"] = _lists(exits.evidence_nE)
    if top_k:
        columns |= _top(draw, final, exits.agrees_nX, exits.rank_n, top_k)
    whole = {name: columns.get(name, pa.nulls(n, TOKENS.field(name).type)) for name in TOKENS.names}
    return generation, pa.table(whole, schema=TOKENS)


def _top(
    draw: np.random.Generator, final: np.ndarray, agrees: np.ndarray, rank: np.ndarray, top_k: int
) -> dict[str, pa.Array]:
    """Likeliest tokens per exit rank: the deeper, the more often full depth's own; and those at each token's exit."""
    n, ranks = agrees.shape
    ids = (N_WORDS ** draw.random((n, ranks, top_k))).astype(np.int32) - 1
    ids[..., 0] = np.where(agrees, final[:, None], ids[..., 0])
    prob = np.sort(draw.dirichlet([1.0] * (top_k + 1), (n, ranks))[..., :top_k], axis=-1)[..., ::-1].astype(np.float32)
    texts = pa.array(WORDS[ids.ravel()].tolist())
    at_exit = np.arange(n), rank
    return {
        "exit_top_token_ids": _lists(ids[at_exit]),
        "exit_top_tokens": _nested(pa.array(WORDS[ids[at_exit].ravel()].tolist()), top_k),
        "exit_top_prob": _lists(prob[at_exit]),
        "top_token_ids": _lists(ids.reshape(n * ranks, top_k), ranks),
        "top_tokens": _nested(_nested(texts, top_k), ranks),
        "top_prob": _lists(prob.reshape(n * ranks, top_k), ranks),
    }


def _lists(values: np.ndarray, outer: int | None = None) -> pa.Array:
    inner = _nested(pa.array(values.ravel(), from_pandas=True), values.shape[1])
    return inner if outer is None else _nested(inner, outer)


def _nested(values: pa.Array, length: int) -> pa.Array:
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, length, dtype=np.int32), values)


def _manifest(n_prompts: int, grid: Sequence[Configuration], n_tokens: int) -> Manifest:
    prompts = [
        {"id": str(i), "prompt": f"Question {i}: what would a model say that left early?"} for i in range(n_prompts)
    ]
    config = {"prompts": prompts, "readout": "lens", "temperature": 0.0, "top_p": 1.0, "max_new_tokens": n_tokens}
    return Manifest(
        config=config,
        configurations=[{"key": configuration.key, **configuration.columns} for configuration in grid],
        model={"name": "synthetic", "n_layers": N_LAYERS},
        exitable_layers=LAYERS,
        n_runs=n_prompts * len(grid),
    )
