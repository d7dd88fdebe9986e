"""Reading what runs of a sweep wrote, and what the full-depth model says of it, from the sweep's tables.

Shapes: N decided tokens of a text, E exitable layers, X = E + 1 with the final layer last, K top tokens.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from eexit.method.divergence import Divergence
from eexit.plan.runs import OK
from eexit.results.files import Location
from eexit.results.landed import runs_with_tokens, shards
from eexit.studies.replay.recorded import Transcript
from eexit.training.texts import text_of

OF_RUNS: Final = ("run_id", "prompt_id", "seed", "configuration", "status", "prompt_token_ids", "n_tokens")
OF_TOKENS: Final = ("token_id", "kl", "entropy", "top_token_ids", "top_prob")


def read_transcripts(location: Location, key: str, once: bool = False) -> list[Transcript]:
    """What the runs of the configuration with this key wrote, by prompt and seed; those that decided no token are not
    there. With `once`, one run of each prompt is enough, that of the lowest seed.

    Raises `DamagedError` for a damaged file, and `OSError`.
    """
    is_wanted = (pc.field("configuration") == key) & (pc.field("status") == OK) & (pc.field("n_tokens") > 1)
    found = {
        run["run_id"]: _transcript(run, tokens)
        for shard in shards(location, OF_RUNS)
        for run, tokens in runs_with_tokens(location, shard, shard.rows.filter(is_wanted), OF_TOKENS)
    }
    in_order = sorted(found.values(), key=lambda transcript: (transcript.text.prompt_id, transcript.seed))
    if not once:
        return in_order
    return [next(same) for _, same in groupby(in_order, lambda transcript: transcript.text.prompt_id)]


def _transcript(run: Mapping[str, Any], tokens: pa.Table) -> Transcript:
    return Transcript(text_of(run, tokens), run["seed"], _teacher(tokens.slice(1)))


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
