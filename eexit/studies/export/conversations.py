"""Teacher data, a sweep as training data for other programs: its columns, a row per run, and how a sweep fills them.

    for tokens in tokens_of(store, shard, runs, NEEDED_OF_TOKENS):
        table = conversations(runs, tokens, told)

Each column is declared once, in `CONVERSATIONS`, from which the dataset card takes its table. Where a column says what
a column of the sweep's tables says, it has that one's name, unit and definition. A list with one entry per token is in
the order of the tokens, so that an entry's index is its token's position. Exit probabilities at any KL factor follow
from the stored KLs, by the engine's own rule and stick-breaking.

Shapes: R runs, N tokens of all of them, run after run, T tokens of one, E exitable layers, X = E + 1 with the final
layer last, F KL factors, K top tokens.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from eexit.errors import UsageError
from eexit.method.draws import exit_draws
from eexit.method.rules import RULES
from eexit.method.stick_breaking import exit_probabilities
from eexit.results.layout import Manifest
from eexit.results.tables import GENERATIONS, TOKENS, described, nested

OF_RUNS: Final = ("run_id", "prompt_id", "configuration", "mode", "rule", "parameter", "seed", "finish_reason")
OF_PROMPTS: Final = ("prompt_token_ids", "n_tokens")
OF_TOKENS: Final = ("decided", "token_id", "token", "exit_layer", "logprob", "final_token_id", "entropy", "kl")

_MESSAGES: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def _per_token(name: str, kind: pa.DataType, unit: str, definition: str) -> pa.Field:
    return described(name, pa.list_(kind), unit, f"one entry per token: {definition}")


def _as_in_tokens(names: tuple[str, ...]) -> Iterator[pa.Field]:
    for field in map(TOKENS.field, names):
        yield _per_token(field.name, field.type, *(field.metadata[key].decode() for key in (b"unit", b"definition")))


CONVERSATIONS: Final = pa.schema(
    [
        *map(GENERATIONS.field, OF_RUNS),
        described(
            "messages",
            _MESSAGES,
            "text",
            "the conversation as chat messages: system, if there is a system prompt, then user and assistant; the "
            "assistant's content is the prefiller, if there is one, and then the generated text",
        ),
        *map(GENERATIONS.field, OF_PROMPTS),
        *_as_in_tokens(OF_TOKENS),
        _per_token(
            "exit_draw",
            pa.float32(),
            "uniform in [0, 1)",
            "the draw that picks the exit, the same in all configurations of a prompt and seed: a token exits at the "
            "first layer at which the exit probabilities so far add up to more than its draw",
        ),
        described("layers", pa.list_(pa.int32()), "layer", "0-based: the exitable layers in order, then the final one"),
        described("kl_factors", pa.list_(pa.float64()), "1/nat", "the KL factors k of kl_exit_prob"),
        _per_token(
            "kl_exit_prob",
            nested(pa.float32(), "FX"),
            "probability",
            "for each of kl_factors, the distribution over layers that rule kl draws an exit from: stick-breaking of "
            "the stop chances 2·sigmoid(−k·kl); all on the final layer for the first token, whose exit is not decided",
        ),
        _per_token(
            "final_top_token_ids",
            nested(pa.int32(), "K"),
            "token ids",
            "the full-depth model's most likely tokens, likeliest first; empty where the sweep did not record them",
        ),
        _per_token(
            "final_top_tokens", nested(pa.string(), "K"), "text", "the text of final_top_token_ids, each by itself"
        ),
        _per_token(
            "final_top_logprob",
            nested(pa.float32(), "K"),
            "nats",
            "the log-probability of final_top_token_ids under the full-depth model, before temperature and top_p; −inf "
            "where the probability was stored as 0",
        ),
    ]
)

SHAPES: Final = {"messages": "messages", "layers": "X", "kl_factors": "F", "prompt_token_ids": "prompt tokens"} | {
    "kl": "T × E",
    "kl_exit_prob": "T × F × X",
    "final_top_token_ids": "T × K",
    "final_top_tokens": "T × K",
    "final_top_logprob": "T × K",
}  # of the lists; all others have one entry per token


NEEDED_OF_RUNS: Final = (*OF_RUNS, *OF_PROMPTS, "prompt", "status", "text")
NEEDED_OF_TOKENS: Final = ("run_id", "position", *OF_TOKENS, "top_token_ids", "top_tokens", "top_prob")


@dataclass(frozen=True)
class Surroundings:
    """What the rows of a sweep do not say of themselves, and the KL factors that are asked for."""

    layers: tuple[int, ...]  # (X,)
    kl_factors: tuple[float, ...]
    systems: Mapping[str, str]  # prompt id → its system prompt
    prefillers: Mapping[str, str]


def surroundings(manifest: Manifest, kl_factors: Sequence[float]) -> Surroundings:
    """Raises `UsageError` for KL factors that rule kl can't use, or that are given twice, and without KLs."""
    for kl_factor in kl_factors:
        if not 0 <= kl_factor < math.inf:
            raise UsageError(f"KL factors must be finite and ≥ 0, got {kl_factor:g}")
    if len(set(kl_factors)) < len(kl_factors):
        raise UsageError(f"KL factors must be distinct, got {' '.join(f'{each:g}' for each in kl_factors)}")
    if (observe := manifest.config["observe"]) != "all":
        raise UsageError(
            f"the sweep was run with --observe {observe}, and teacher data has the KL of every exitable layer: run it "
            "with --observe all"
        )
    return Surroundings(
        layers=(*manifest.exitable_layers, manifest.model["n_layers"] - 1),
        kl_factors=tuple(kl_factors),
        systems=manifest.of_prompts("system"),
        prefillers=manifest.of_prompts("prefiller"),
    )


def messages(told: Surroundings, prompt_id: str, prompt: str, text: str) -> list[dict[str, str]]:
    """A run's conversation as chat messages."""
    system = told.systems[prompt_id]
    return [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": told.prefillers[prompt_id] + text},
    ]


def conversations(generations: pa.Table, tokens: pa.Table, told: Surroundings) -> pa.Table:
    """One row of `CONVERSATIONS` for each run that has tokens here; `generations` has the rows of these runs at least.

    Raises `ValueError` if the tokens of a run are not all here, together and in order.
    """
    tokens = tokens.combine_chunks()
    start_R = np.flatnonzero(tokens["position"].to_numpy() == 0)
    runs = generations.take(pc.index_in(tokens["run_id"].take(start_R), value_set=generations["run_id"]))
    expected_N = np.concatenate([np.arange(length) for length in runs["n_tokens"].to_numpy()])
    if not np.array_equal(tokens["position"].to_numpy(), expected_N):
        raise ValueError("its tokens are not together and in order, run after run")
    columns = {
        **{name: runs[name] for name in (*OF_RUNS, *OF_PROMPTS)},
        "messages": list(map(partial(messages, told), *_values(runs, "prompt_id", "prompt", "text"))),
        "exit_draw": list(map(exit_draws, *_values(runs, "seed", *OF_PROMPTS))),
        "layers": [told.layers] * len(runs),
        "kl_factors": [told.kl_factors] * len(runs),
    }
    of_tokens = {
        **{name: tokens[name] for name in OF_TOKENS},
        "kl_exit_prob": _kl_exit_prob(tokens, told),
        **_final_top(tokens, len(told.layers) - 1),
    }
    ends = pa.array([*start_R, len(tokens)], pa.int32())
    columns |= {name: pa.ListArray.from_arrays(ends, _whole(column)) for name, column in of_tokens.items()}
    return pa.table([_as(columns[field.name], field.type) for field in CONVERSATIONS], schema=CONVERSATIONS)


def _kl_exit_prob(tokens: pa.Table, told: Surroundings) -> pa.Array:
    """The distribution over layers that rule kl draws from at each of the KL factors, (N, F, X).

    It is all on the final layer for tokens that are not decided.
    """
    kl_NE = torch.tensor(pc.list_flatten(tokens["kl"]).to_numpy().reshape(len(tokens), len(told.layers) - 1))
    decided_N, at_final_X = torch.tensor(tokens["decided"].to_numpy()), torch.eye(len(told.layers))[-1]
    chances = [RULES["kl"].chances(kl_NE, torch.full_like(kl_NE[:1], k)) for k in told.kl_factors]
    each_NFX = torch.stack([exit_probabilities(each) for each in chances], 1)
    probability_NFX = torch.where(decided_N[:, None, None], each_NFX, at_final_X)
    by_factor = pa.FixedSizeListArray.from_arrays(probability_NFX.flatten().numpy(), len(told.layers))
    return pa.FixedSizeListArray.from_arrays(by_factor, len(told.kl_factors))


def _final_top(tokens: pa.Table, final: int) -> dict[str, pa.Array]:
    """The top tokens of the final layer, which is the last of those that each token has lists of."""
    ids, texts, prob = (
        _whole(pc.coalesce(pc.list_element(tokens[name], final), pa.scalar([], tokens[name].type.value_type)))
        for name in ("top_token_ids", "top_tokens", "top_prob")
    )
    with np.errstate(divide="ignore"):
        logprob = np.log(pc.list_flatten(prob).to_numpy(zero_copy_only=False))
    ends = pa.array(np.append(0, np.cumsum(pc.list_value_length(prob))), pa.int32())
    return {
        "final_top_token_ids": ids,
        "final_top_tokens": texts,
        "final_top_logprob": pa.ListArray.from_arrays(ends, pa.array(logprob)),
    }


def _values(runs: pa.Table, *names: str) -> list[list[Any]]:
    return [runs[name].to_pylist() for name in names]


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _as(column: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Arrow casts the names of the inner fields of lists, too."""
    return column.cast(kind) if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, kind)
