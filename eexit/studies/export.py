"""A sweep as teacher data for other training code: `export`, for `eexit export`. Needs no Ray.

A row is a run: its messages, token ids and exits, the KLs of all exitable layers, and exit distributions at any KL
factors. These come from the engine's own rule and stick-breaking.

Shapes: F KL factors.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pyarrow import fs

from eexit.errors import UsageError
from eexit.method.rules import RULES
from eexit.method.stick_breaking import exit_probabilities
from eexit.output.locations import redact
from eexit.output.progress import Display, Progress
from eexit.output.text import pluralize
from eexit.plan.runs import OK
from eexit.results.committed import runs_with_tokens
from eexit.results.finished_sweep import manifest_of, refuse_unknown
from eexit.results.owned_folders import refuse_inside
from eexit.results.store.folder import Store, open_store
from eexit.results.tables import GENERATIONS, TOKENS, described, nested

TOKENS_PER_FILE = 100_000  # about; no more are in memory
OF_RUNS: Final = ("run_id", "prompt_id", "configuration", "mode", "rule", "parameter", "seed", "finish_reason")
OF_PROMPTS: Final = ("prompt_token_ids", "n_tokens")
OF_TOKENS: Final = (
    "decided", "token_id", "token", "exit_layer", "logprob", "final_token_id", "entropy", "kl", "top_token_ids",
    "top_prob",
)  # fmt: skip

_MESSAGES: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def _per_token(name: str, kind: pa.DataType, unit: str, definition: str) -> pa.Field:
    return described(name, pa.list_(kind), unit, f"one entry per token: {definition}")


def _as_in_tokens(each: pa.Field) -> pa.Field:
    return _per_token(each.name, each.type, *(each.metadata[key].decode() for key in (b"unit", b"definition")))


CONVERSATIONS: Final = pa.schema(
    [
        *map(GENERATIONS.field, OF_RUNS),
        described(
            "messages", _MESSAGES, "text",
            "system, if there is a system prompt, user, and assistant: the prefiller, if any, and the generated text",
        ),
        *map(GENERATIONS.field, OF_PROMPTS),
        *(_as_in_tokens(TOKENS.field(name)) for name in OF_TOKENS),
        described("layers", pa.list_(pa.int32()), "layer", "0-based: the exitable layers in order, then the final one"),
        described("kl_factors", pa.list_(pa.float64()), "1/nat", "the KL factors k of kl_exit_prob"),
        _per_token(
            "kl_exit_prob", nested(pa.float32(), "FX"), "probability",
            "for each of kl_factors, the distribution over layers that rule kl draws an exit from: stick-breaking of "
            "the probabilities 2·sigmoid(−k·kl); all on the final layer for a first token whose exit is not decided",
        ),
    ]
)  # fmt: skip


@dataclass
class _ShardedWriter:
    """Data files of bounded size; conversations are buffered in memory until they fill one."""

    target: Store
    names: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def publish(self) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(self.rows, CONVERSATIONS), sink, compression="zstd")
        name = f"train-{len(self.names):05}.parquet"
        self.target.publish(name, sink.getvalue())
        self.names.append(name)
        self.rows.clear()

    def remove(self) -> None:
        """Remove all published files, and the folder if it is then empty."""
        for name in self.names:
            with suppress(OSError, pa.ArrowException):
                self.target.remove(name)
        self.target.remove_if_empty()


def export(results: str, out: str, keys: Sequence[str], kl_factors: Sequence[float], display: Display) -> int:
    """Write the committed runs of these configurations to the empty location `out`, and return their number.

    On any exception, the files written so far are removed. Raise `UsageError` for bad input.
    """
    store, target, name = open_store(results), open_store(out), redact(results)
    manifest = manifest_of(store, name)
    refuse_unknown(keys, [each["key"] for each in manifest.configurations], name)
    if any(not 0 <= k < math.inf for k in kl_factors) or len(set(kl_factors)) < len(kl_factors):
        raise UsageError(f"--kl-factors are distinct, finite and ≥ 0, got {' '.join(f'{k:g}' for k in kl_factors)}")
    if (record_full_depth := manifest.config["record_full_depth"]) != "all":
        way_out = "and teacher data has the KL of every exitable layer: run it with --record-full-depth all"
        raise UsageError(f"the sweep was run with --record-full-depth {record_full_depth}, {way_out}")
    _refuse_taken(target, redact(out))
    target.probe()
    layers = (*manifest.exitable_layers, manifest.model["n_layers"] - 1)
    systems, prefillers = manifest.of_prompts("system"), manifest.of_prompts("prefiller")
    wanted = (pc.field("status") == OK) & pc.field("configuration").isin(list(keys))
    columns = [*OF_RUNS, *OF_PROMPTS, "prompt", "status", "text"]
    files, done, n_tokens = _ShardedWriter(target), set[str](), 0
    n_planned = len(manifest.config["prompts"]) * len(manifest.config["seeds"]) * len(keys)
    try:
        with display:
            for run, tokens in runs_with_tokens(store, columns, wanted, OF_TOKENS):
                if run["run_id"] in done:
                    continue  # a repeated run
                said = {"system": systems[run["prompt_id"]], "user": run["prompt"]}
                said["assistant"] = prefillers[run["prompt_id"]] + run["text"]
                messages = [{"role": role, "content": said[role]} for role in said if said[role] or role != "system"]
                exits = {"layers": layers, "kl_factors": kl_factors, "kl_exit_prob": _kl_exit_prob(tokens, kl_factors)}
                of_run = {name: run[name] for name in (*OF_RUNS, *OF_PROMPTS)}
                of_tokens = {name: tokens[name].to_pylist() for name in OF_TOKENS}
                files.rows.append(of_run | {"messages": messages} | exits | of_tokens)
                done.add(run["run_id"])
                n_tokens += run["n_tokens"]
                if sum(row["n_tokens"] for row in files.rows) >= TOKENS_PER_FILE:
                    files.publish()
                doing = pluralize(len(done), "conversation")
                display.show(Progress(doing, n_tokens, len(done) / n_planned, n_tokens > 0))
            display.show(Progress(pluralize(len(done), "conversation"), n_tokens, 1.0, n_tokens > 0), last=True)
        if not done:
            raise UsageError(f"{name} has no run of {', '.join(keys)} without an error: there is nothing to export")
        if files.rows:
            files.publish()
    except BaseException:
        files.remove()
        raise
    return len(done)


def _refuse_taken(target: Store, out: str) -> None:
    """Raise `UsageError` if `target` is inside a results folder, or has entries that aren't hidden, as git's are."""
    refuse_inside(target, f"--out {out}")
    if target.filesystem.get_file_info(target.root).type == fs.FileType.File:
        raise UsageError(f"--out {out} is a file: give a folder")
    infos = target.filesystem.get_file_info(fs.FileSelector(target.root, allow_not_found=True))
    if held := sorted(info.base_name for info in infos if not info.base_name.startswith(".")):
        way_out = "nothing there is replaced: choose another place, or empty it"
        raise UsageError(f"--out {out} holds {held[0]}, and {way_out}")


def _kl_exit_prob(tokens: pa.Table, kl_factors: Sequence[float]) -> list[Any]:
    """Return rule `kl`'s distribution over layers at each KL factor, (T, F, X)."""
    kl_TE, decided_T = torch.tensor(tokens["kl"].to_pylist()), torch.tensor(tokens["decided"].to_pylist())
    chances = [RULES["kl"].chances(kl_TE, torch.full_like(kl_TE[:1], k)) for k in kl_factors]
    drawn_TFX = torch.stack([exit_probabilities(each) for each in chances], 1)
    at_final_X = torch.eye(drawn_TFX.shape[-1])[-1]
    return list(torch.where(decided_T[:, None, None], drawn_TFX, at_final_X).tolist())
