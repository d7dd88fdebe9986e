"""Reading what runs of a sweep wrote, and what the full-depth model says of it, from the sweep's tables.

Shapes: N decided tokens of a text, E exitable layers, X = E + 1 with the final layer last, K top tokens.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from eexit.method.divergence import Divergence
from eexit.plan.runs import OK
from eexit.results.files import DamagedError, Generations, Location, list_files, read_shards, stream_tokens
from eexit.studies.export.conversations import whole_runs
from eexit.studies.replay.recorded import Transcript
from eexit.training.texts import Text

OF_RUNS: Final = ("run_id", "prompt_id", "seed", "configuration", "status", "prompt_token_ids", "n_tokens")
OF_TOKENS: Final = ("run_id", "token_id", "kl", "entropy", "top_token_ids", "top_prob")
ROWS_AT_ONCE: Final = 8192


def read_transcripts(location: Location, key: str, once: bool = False) -> list[Transcript]:
    """What the runs of the configuration with this key wrote, by prompt and seed; those that decided no token are not
    there. With `once`, one run of each prompt is enough, that of the lowest seed.

    Raises `DamagedError` for a damaged file, and `OSError`.
    """
    found: dict[str, Transcript] = {}
    for shard in read_shards(location, list_files(location), OF_RUNS):
        if isinstance(shard, DamagedError):
            raise shard
        is_wanted = pc.and_(pc.equal(shard.rows["configuration"], key), pc.equal(shard.rows["status"], OK))
        rows = shard.rows.filter(pc.and_(is_wanted, pc.greater(shard.rows["n_tokens"], 1)))
        found |= dict(_of_shard(location, shard, rows)) if rows.num_rows else {}
    in_order = sorted(found.values(), key=lambda transcript: (transcript.text.prompt_id, transcript.seed))
    if not once:
        return in_order
    return [next(same) for _, same in groupby(in_order, lambda transcript: transcript.text.prompt_id)]


def _of_shard(location: Location, shard: Generations, rows: pa.Table) -> Iterator[tuple[str, Transcript]]:
    runs = {row["run_id"]: row for row in rows.to_pylist()}
    wanted = rows["run_id"].combine_chunks()
    batches = stream_tokens(location, shard, OF_TOKENS, ROWS_AT_ONCE)
    for table in whole_runs(batch.filter(pc.is_in(batch["run_id"], wanted)) for batch in batches):
        ends = np.flatnonzero(np.append(True, pc.not_equal(table["run_id"][1:], table["run_id"][:-1]).to_numpy()))
        for start, length in zip(ends, np.diff(np.append(ends, len(table))), strict=True):
            of_run = table.slice(start, length).combine_chunks()
            run = runs[of_run["run_id"][0].as_py()]
            text = Text(run["prompt_id"], tuple(run["prompt_token_ids"]), tuple(of_run["token_id"].to_pylist()))
            yield run["run_id"], Transcript(text, run["seed"], _teacher(of_run.slice(1)))


def _teacher(decided: pa.Table) -> Divergence | None:
    """All but the log-sum-exp was recorded, or no top tokens."""
    if decided["top_token_ids"].null_count:
        return None
    top_token_NXK, top_prob_NXK = (torch.tensor(_numbers(decided[name])) for name in ("top_token_ids", "top_prob"))
    return Divergence(
        kl_BE=torch.tensor(_numbers(decided["kl"])),
        entropy_B=torch.tensor(_numbers(decided["entropy"])),
        final_lse_B=torch.full((len(decided),), torch.nan),
        likeliest_BX=top_token_NXK[..., 0],
        likeliest_log_p_BX=top_prob_NXK[..., 0].log(),
        top_token_BXK=top_token_NXK,
        top_prob_BXK=top_prob_NXK,
    )


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Nested lists, all of the same lengths, as an array."""
    flat, shape = column.combine_chunks(), [len(column)]
    while pa.types.is_list(flat.type):
        flat, length = flat.flatten(), len(flat)
        shape.append(len(flat) // length)
    numbers: np.ndarray = flat.to_numpy(zero_copy_only=False).reshape(shape)
    return numbers
