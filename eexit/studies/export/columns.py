"""The columns of teacher data, which is a sweep as training data for other programs: one row per run.

Each is declared here once, as Arrow field metadata, from which the dataset card takes its table. Where a column says
what a column of the sweep's tables says, it has that one's name, unit and definition. A list with one entry per token
is in the order of the tokens, so that an entry's index is its token's position.

Shapes: T tokens, E exitable layers, X = E + 1 with the final layer last, F KL factors, K top tokens.
"""

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

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
