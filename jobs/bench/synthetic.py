"""A sweep that no model made, as large as wanted: what the bench measures a report on.

Texts have Zipf's frequencies; a run follows its prompt's normal run for a while and comes back to stretches of it, as
greedy texts do. KLs fall with depth, and exits follow the rule.
"""

import itertools
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eexit.configuration import Configuration
from eexit.results import FOLDERS, MANIFEST, Manifest, encode, generations_name, tokens_name
from eexit.schema import GENERATIONS, LENGTH, OK, TOKENS

LAYERS: Final = (5, 10, 15, 20, 25)
N_LAYERS: Final = 28
N_WORDS: Final = 50_000
FACTORS: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
COME_BACK: Final = 0.06  # chance per token to go on with a stretch of the normal run
STRETCH: Final = 12
WORDS: Final = np.array(
    [
        " " + "".join("bdfgklmnprst"[i // 5 % 12] + "aeiou"[i % 5] for i in (n % 60, n // 60 % 60, n // 3600))
        for n in range(N_WORDS)
    ]
)


def write_synthetic_sweep(
    folder: Path, n_prompts: int, n_top: int = 3, n_factors: int = len(FACTORS), n_tokens: int = 400
) -> Path:
    """`n_prompts` × (normal and two modes × `n_factors`) runs of `n_tokens`, with the `n_top` likeliest tokens."""
    factors = FACTORS[3 - n_factors // 2 :][:n_factors] if n_factors < len(FACTORS) else FACTORS
    runs = [("normal", None), *((mode, k) for mode in ("unfrozen", "frozen_residual") for k in factors)]
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    draw = np.random.default_rng(0)
    weights = 1 / np.arange(1, N_WORDS + 1) ** 1.05
    weights /= weights.sum()
    for first in range(0, n_prompts, 20):
        generations: list[dict[str, Any]] = []
        tokens: list[pa.Table] = []
        for prompt in range(first, min(first + 20, n_prompts)):
            normal = draw.choice(N_WORDS, n_tokens, p=weights)
            for mode, k in runs:
                ids, start = _text(draw, weights, normal, k)
                generation, table = _run(draw, str(prompt), mode, k, ids, start, n_top)
                generations.append(generation)
                tokens.append(table)
        stem = f"{first:032x}"
        pq.write_table(pa.Table.from_pylist(generations, schema=GENERATIONS), folder / generations_name(stem))
        pq.write_table(pa.concat_tables(tokens), folder / tokens_name(stem), compression="zstd")
    (folder / MANIFEST).write_bytes(encode(_manifest(n_prompts, factors, n_tokens, len(runs))))
    return folder


def _text(
    draw: np.random.Generator, weights: np.ndarray, normal: np.ndarray, k: float | None
) -> tuple[np.ndarray, int]:
    """Token ids, and how many are those of the normal run before the first that differs."""
    if k is None:
        return normal, len(normal)
    start = int(min(len(normal), draw.exponential(40 * k) + 2))
    ids = draw.choice(N_WORDS, len(normal), p=weights)
    ids[:start] = normal[:start]
    for place in np.flatnonzero(draw.random(len(ids)) < COME_BACK):
        if place > start:
            stretch = normal[place : place + STRETCH]
            ids[place : place + len(stretch)] = stretch
    return ids, start


def _run(
    draw: np.random.Generator, prompt_id: str, mode: str, k: float | None, ids: np.ndarray, start: int, n_top: int
) -> tuple[dict[str, Any], pa.Table]:
    n, E = len(ids), len(LAYERS)
    configuration = Configuration(mode) if k is None else Configuration(mode, "kl", k)
    naming = {"run_id": f"{prompt_id}-{mode}-{k}", "prompt_id": prompt_id, **configuration.columns, "seed": 0}
    hard = draw.normal(size=(n, 1))
    kl = np.exp(np.array([1.8, 1.4, 1.0, 0.3, -0.8]) + 1.3 * hard + 0.6 * draw.normal(size=(n, E))).astype(np.float32)
    stop = np.zeros((n, E)) if k is None else 2 / (1 + np.exp(np.minimum(k * kl, 80)))
    stop[0] = 0
    left = np.cumprod(1 - stop, axis=1)
    prob = np.concatenate([stop * np.concatenate([np.ones((n, 1)), left[:, :-1]], axis=1), left[:, -1:]], axis=1)
    rank = (1 - left <= draw.random((n, 1))).sum(axis=1)
    layers = np.array([*LAYERS, N_LAYERS - 1])
    decided = rank[1:]
    generation = naming | {
        "prompt": f"Question {prompt_id}: what would a model say that left early?", "model": "synthetic", "status": OK,
        "finish_reason": LENGTH, "text": "".join(WORDS[ids]), "prompt_token_ids": [1], "n_prompt_tokens": 1,
        "n_tokens": n, "exit_rate": float((decided < E).mean()),
        "mean_depth": float((layers[decided] + 1).mean() / N_LAYERS),
        "exit_layer_counts": list(zip(layers.tolist(), np.bincount(decided, minlength=E + 1).tolist(), strict=True)),
        "perplexity": float(np.exp(1 + (0 if k is None else 0.4 / k) + 0.1 * draw.normal())),
        "tokens_until_difference": start, "equal_share": start / n, "lcs_share": start / n,
        "distinct_2": len(set(itertools.pairwise(ids.tolist()))) / (n - 1), "distinct_3": 1.0, "longest_loop": 0,
    }  # fmt: skip
    final = np.where(draw.random(n) < 0.8, ids, draw.integers(0, 2_000, n))
    generation["disagreement"] = float((ids != final)[1:].mean())
    columns = {name: pa.array([value] * n, TOKENS.field(name).type) for name, value in naming.items()}
    columns |= {
        "position": np.arange(n, dtype=np.int32), "decided": np.arange(n) > 0, "token_id": ids.astype(np.int32),
        "token": pa.array(WORDS[ids].tolist()), "exit_layer": layers[rank].astype(np.int32), "kl": _lists(kl),
        "exit_prob": _lists(prob.astype(np.float32)), "logprob": (-np.exp(hard[:, 0] - 1)).astype(np.float32),
        "final_token_id": final.astype(np.int32), "entropy": np.exp(hard[:, 0]).astype(np.float32),
    }  # fmt: skip
    if n_top:
        columns |= _top(draw, final, kl, rank, n_top)
    whole = {name: columns.get(name, pa.nulls(n, TOKENS.field(name).type)) for name in TOKENS.names}
    return generation, pa.table(whole, schema=TOKENS)


def _top(
    draw: np.random.Generator, final: np.ndarray, kl: np.ndarray, rank: np.ndarray, n_top: int
) -> dict[str, pa.Array]:
    """Likeliest tokens per exit rank: the deeper, the more often full depth's own; and those at each token's exit."""
    n, ranks = len(final), kl.shape[1] + 1
    ids = (N_WORDS ** draw.random((n, ranks, n_top))).astype(np.int32) - 1
    agrees = draw.random((n, ranks)) < np.concatenate([np.exp(-kl), np.ones((n, 1))], axis=1)
    ids[..., 0] = np.where(agrees, final[:, None], ids[..., 0])
    prob = np.sort(draw.dirichlet([1.0] * (n_top + 1), (n, ranks))[..., :n_top], axis=-1)[..., ::-1].astype(np.float32)
    texts = pa.array(WORDS[ids.ravel()].tolist())
    at_exit = np.arange(n), rank
    return {
        "exit_top_token_ids": _lists(ids[at_exit]),
        "exit_top_tokens": _nested(pa.array(WORDS[ids[at_exit].ravel()].tolist()), n_top),
        "exit_top_prob": _lists(prob[at_exit]),
        "top_token_ids": _lists(ids.reshape(n * ranks, n_top), ranks),
        "top_tokens": _nested(_nested(texts, n_top), ranks),
        "top_prob": _lists(prob.reshape(n * ranks, n_top), ranks),
    }


def _lists(values: np.ndarray, outer: int | None = None) -> pa.Array:
    inner = _nested(pa.array(values.ravel()), values.shape[1])
    return inner if outer is None else _nested(inner, outer)


def _nested(values: pa.Array, length: int) -> pa.Array:
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, length, dtype=np.int32), values)


def _manifest(n_prompts: int, factors: tuple[float, ...], n_tokens: int, n_runs: int) -> Manifest:
    prompts = [
        {"id": str(i), "prompt": f"Question {i}: what would a model say that left early?"} for i in range(n_prompts)
    ]
    modes = ["normal", "unfrozen", "frozen_residual"]
    config = {"prompts": prompts, "modes": modes, "kl_factors": list(factors), "readout": "lens", "temperature": 0.0}
    return Manifest(
        config=config | {"top_p": 1.0, "max_new_tokens": n_tokens},
        model={"name": "synthetic", "n_layers": N_LAYERS},
        exitable_layers=list(LAYERS),
        n_runs=n_prompts * n_runs,
    )
