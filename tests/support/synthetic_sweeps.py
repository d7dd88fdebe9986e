"""Small synthetic sweeps, written with the project's own schemas."""

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from eexit.plan.configuration import COLUMNS, Configuration, EarlyExit, NoExit
from eexit.plan.hashes import checksum
from eexit.results.checksums import checksum_of, encode_generations, encode_tokens
from eexit.results.layout import FORMAT
from eexit.results.tables import GENERATIONS, TOKENS

Run = tuple[dict[str, Any], list[dict[str, Any]]]  # generations row, and token rows
LAYERS = [5, 10, 15, 20, 25]
FINAL = 29
HOSTILE = (
    "<script>window.owned=1</script></script><img src=x onerror=window.owned=1>"
    " &amp; ' \" ` ${1} {{ 7*7 }} \u202eright to left\u2069 \x00\x07\x1b[31m \u2028\u2029 "
    "👩‍👩‍👧 é 漢字 <!-- ]]> https://evil.example/x.js\n\tend"
)
WORDS = ["The", " cat", " sat", " on", " the", " mat", ".", "\n"]
CONFIGURATIONS: list[tuple[str, float | None]] = [("normal", None)] + [
    (mode, k) for mode in ("unfrozen", "frozen_residual") for k in (0.5, 1.0, 2.0)
]
NORMAL_ALONE = CONFIGURATIONS[:1]  # its report has the fewest charts
IDENTITY = COLUMNS
UNUSUAL: dict[str, dict[str, Any]] = {
    "empty": {"n_prompts": 0, "configurations": [], "n_runs": 21},
    "partial": {"n_prompts": 1, "n_runs": 21},
    "all failed": {"n_prompts": 2, "fail": lambda *run: True},
    "one prompt": {"n_prompts": 1},
    "one configuration": {"n_prompts": 6, "configurations": [("unfrozen", 1.0)]},
    "only normal": {"n_prompts": 6, "configurations": [("normal", None)]},
    "no normal": {"n_prompts": 6, "configurations": CONFIGURATIONS[1:]},
}


def run_rows(
    prompt_id: str, prompt: str, mode: str, k: float | None, pieces: list[str], seed: int = 0,
    of: Configuration | None = None, **change: Any,
) -> Run:  # fmt: skip
    """Return one run as a generations row and its token rows. Exits follow from position, so numbers can be checked.

    It is of rule kl, or of configuration `of`.
    """
    run_id = f"{prompt_id}-{of.key}-{seed}" if of else f"{prompt_id}-{mode}-{k}-{seed}"
    configuration = of or (NoExit(mode) if k is None else EarlyExit(mode, "kl", k))
    naming = {"run_id": run_id, "prompt_id": prompt_id, **configuration.columns, "seed": seed}
    tokens: list[dict[str, Any]] = []
    for i, piece in enumerate(pieces):
        early = k is not None and i > 0 and i % int(2 * k) == 0
        layer = LAYERS[i % len(LAYERS)] if early else FINAL
        drawn = 0.2 if mode != "normal" and i > 0 else 0.0
        exit_prob = [drawn / 5 * 5 / 5] * 5
        tokens.append(naming | {
            "position": i, "decided": i > 0, "drafted": False, "token_id": 100 + sum(piece.encode()) % 900,
            "token": piece, "exit_layer": layer, "kl": [8.0 / (j + 1) ** 2 for j in range(5)],
            "exit_prob": [*exit_prob, 1 - sum(exit_prob)], "logprob": -1.5,
            "final_token_id": 100 + sum(piece.encode()) % 900 if i % 3 else 7, "entropy": 2.0,
        })  # fmt: skip
    decided = [token["exit_layer"] for token in tokens if token["decided"]]
    differs = [token["token_id"] != token["final_token_id"] for token in tokens if token["decided"]]
    counts = {layer: decided.count(layer) for layer in [*LAYERS, FINAL]}
    generation = naming | {
        "prompt": prompt, "model": "tiny", "status": "ok", "error": None, "finish_reason": "length",
        "text": "".join(pieces), "prompt_token_ids": [1, 2], "n_prompt_tokens": 2, "n_tokens": len(pieces),
        "exit_rate": sum(layer != FINAL for layer in decided) / max(1, len(decided)),
        "mean_depth": sum(layer + 1 for layer in decided) / (max(1, len(decided)) * (FINAL + 1)),
        "disagreement": sum(differs) / len(differs) if differs else None,
        "exit_layer_counts": list(counts.items()), "perplexity": 3.0 if k is None else 3.0 + 2 / k,
        "tokens_until_difference": len(pieces) if k is None else int(2 * k) + 1,
        "equal_share": 1.0 if k is None else 0.5,
        "lcs_share": 1.0 if k is None else 0.6, "distinct_2": 0.9, "distinct_3": 0.95, "longest_loop": 0,
    }  # fmt: skip
    return generation | change, tokens


def write_runs(folder: Path, runs: Iterable[Run], temperature: float = 0.0) -> Path:
    """Write a sweep of these runs; those that failed have no tokens."""
    generations, tokens = zip(*runs, strict=True)
    return write_sweep(folder, [*generations], [*chain(*tokens)], temperature=temperature)


def failed_row(prompt_id: str, prompt: str, mode: str, k: float | None, error: str) -> dict[str, Any]:
    row, _ = run_rows(prompt_id, prompt, mode, k, ["x"])
    keep = ("run_id", "prompt_id", "configuration", "mode", "rule", "parameter", "kl_factor", "seed", "prompt", "model")
    return dict.fromkeys(row) | {name: row[name] for name in keep} | {"status": "error", "error": error}


def shard(number: int) -> str:
    """Return the common name of a shard's two files."""
    return f"{number:032x}.parquet"


def write_sweep(
    folder: Path, generations: list[dict[str, Any]], tokens: list[dict[str, Any]], n_runs: int | None = None,
    temperature: float = 0.0,
) -> Path:  # fmt: skip
    """Write a sweep. With temperature 0, runs of `normal` have to be the same for every seed."""
    folder.mkdir(parents=True)
    prompts = {row["prompt_id"]: row["prompt"] for row in generations}
    modes = list(dict.fromkeys(row["mode"] for row in generations))
    factors = sorted({row["kl_factor"] for row in generations} - {None})
    configurations = {row["configuration"]: {name: row.get(name) for name in IDENTITY} for row in generations}
    about = {
        "format": FORMAT,
        "configurations": [{"key": key, **columns} for key, columns in configurations.items()],
        "config": {
            "model": "tiny", "prompts": [{"id": i, "prompt": p, "system": None} for i, p in prompts.items()],
            "modes": modes, "kl_factors": factors, "seeds": [0], "readout": "lens", "max_new_tokens": 40,
            "temperature": temperature, "top_p": 1.0, "system": "", "prefiller": "",
            "screen": None, "record_full_depth": "all",
        },
        "model": {"name": "tiny", "revision": None, "digest": "sha256:0", "architecture": "llama",
                  "n_layers": FINAL + 1, "dtype": "float32"},
        "exitable_layers": LAYERS, "versions": {"python": "3.13", "eexit": "0.1.0"},
        "started": "2026-01-01T00:00:00+00:00", "n_runs": len(generations) if n_runs is None else n_runs,
    }  # fmt: skip
    write_manifest(folder, about)
    for name in ("generations", "tokens"):
        (folder / name).mkdir()
    if generations:
        write_shard(folder, 0, pa.Table.from_pylist(generations, GENERATIONS), pa.Table.from_pylist(tokens, TOKENS))
    return folder


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """Write sweep.json with a new checksum."""
    about = {name: value for name, value in about.items() if name != "checksum"}
    (folder / "sweep.json").write_text(json.dumps(about | {"checksum": checksum(about)}))


def write_shard(folder: Path, number: int, generations: pa.Table, tokens: pa.Table, attempt: int = 1) -> None:
    """Write a shard with checksums, like a sweep."""
    content = encode_tokens(tokens)
    (folder / "tokens" / shard(number)).write_bytes(content)
    sealed = encode_generations(generations, checksum_of(content), attempt)
    (folder / "generations" / shard(number)).write_bytes(sealed)


def story(prompt: int, mode: str, k: float | None, n: int = 24) -> list[str]:
    """Return the words of a run: the same as normal's up to 2k + 1, then others that match only now and then."""
    words = [WORDS[(i + prompt) % len(WORDS)] for i in range(n)]
    if k is None:
        return words
    return [w if i <= 2 * k or i % 3 == 0 else f" {mode[0]}{i % 4}" for i, w in enumerate(words)]
