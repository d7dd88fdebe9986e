"""The two tables a sweep leaves: one row per run, one row per generated token.

Names, units and definitions stand here once, as Arrow field metadata:

    >>> print(describe(GENERATIONS))

Decided tokens are those whose exit was drawn: every token but a run's first, which always comes from the final layer.
"""

from typing import Final

import pyarrow as pa

OK: Final = "ok"
ERROR: Final = "error"
EOS: Final = "eos"
LENGTH: Final = "length"


def configuration_key(mode: str, kl_factor: float | None) -> str:
    """What a configuration is called: `normal`, `unfrozen@0.5`. Factors that differ have keys that differ."""
    if kl_factor is None:
        return mode
    short = f"{kl_factor:g}"
    return f"{mode}@{short if float(short) == kl_factor else repr(kl_factor)}"


def _field(name: str, kind: pa.DataType, unit: str, definition: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "definition": definition})


# What a mode means for an early exit.
MODES: Final = {
    "normal": "no exits: every token comes from the final layer",
    "unfrozen": "an early exit changes nothing but the token: later tokens attend to the full-depth state",
    "frozen_residual": "an early exit also freezes the residual stream: past the exit layer, later tokens attend to "
    "keys and values made from the stream as it was there",
}

# Which run a row belongs to: the same columns in both tables.
_RUN_ID = _field("run_id", pa.string(), "hash", "content hash of model, prompt, configuration and seed", False)
_PROMPT_ID = _field("prompt_id", pa.string(), "id", "the prompt's id, unique in the sweep", False)
_MODE = _field("mode", pa.string(), "name", "; ".join(f"{mode}: {does}" for mode, does in MODES.items()), False)
_KL_FACTOR = _field("kl_factor", pa.float64(), "1/nat", "sensitivity k; higher is more conservative; null for normal")
_SEED = _field("seed", pa.int64(), "id", "seed of the exit and sampling draws", False)

GENERATIONS: Final = pa.schema(
    [
        _RUN_ID,
        _PROMPT_ID,
        _field("prompt", pa.string(), "text", "the user's prompt", False),
        _MODE,
        _KL_FACTOR,
        _SEED,
        _field("model", pa.string(), "name", "the model as it was asked for", False),
        _field("status", pa.string(), "name", "ok or error", False),
        _field("error", pa.string(), "text", "why the run could not be done; null when ok"),
        _field("finish_reason", pa.string(), "name", "eos: the model ended; length: max_new_tokens; null on error"),
        _field("text", pa.string(), "text", "the generated text, without the token that ended it; null on error"),
        _field(
            "prompt_token_ids",
            pa.list_(pa.int32()),
            "token ids",
            "exactly what the model saw: the prompt in the model's chat template, in which names of control tokens in "
            "prompts are plain text unless the sweep says control_tokens; null on error",
        ),
        _field("n_prompt_tokens", pa.int32(), "tokens", "length of prompt_token_ids; null on error"),
        _field("n_tokens", pa.int32(), "tokens", "generated tokens, the ending one included; null on error"),
        _field("exit_rate", pa.float64(), "fraction of decided tokens", "tokens read before the final layer"),
        _field("mean_depth", pa.float64(), "fraction of L", "mean of (exit_layer + 1) / L over decided tokens"),
        _field(
            "disagreement",
            pa.float64(),
            "fraction of decided tokens",
            "tokens whose token_id is not final_token_id, the full-depth model's likeliest token given the same text; "
            "with temperature 0 it is 0 for normal; with a temperature above 0 a sampled token can differ although "
            "nothing exited; null where no token was decided",
        ),
        _field(
            "exit_layer_counts",
            pa.map_(pa.int32(), pa.int32()),
            "decided tokens",
            "exit layer to number of decided tokens, every exitable layer and the final one",
        ),
        _field(
            "perplexity",
            pa.float64(),
            "1",
            "exp of the mean negative logprob of the generated tokens under the full-depth model given the same text",
        ),
        _field(
            "tokens_until_difference",
            pa.int32(),
            "tokens",
            "generated tokens before the first that differs from the prompt's normal run of the same seed; "
            "n_tokens if none does; null without a normal run",
        ),
        _field(
            "equal_share",
            pa.float64(),
            "fraction",
            "positions at which this run and normal have the same token, over the longer of the two; "
            "null without a normal run",
        ),
        _field(
            "lcs_share",
            pa.float64(),
            "fraction",
            "longest common subsequence of tokens with normal, over the longer of the two; null without a normal run",
        ),
        _field("distinct_2", pa.float64(), "fraction", "distinct token bigrams over all bigrams; null below 2 tokens"),
        _field("distinct_3", pa.float64(), "fraction", "distinct token trigrams over all; null below 3 tokens"),
        _field(
            "longest_loop",
            pa.int32(),
            "tokens",
            "longest stretch that repeats itself back to back at least once, whatever its period; 0 if none",
        ),
    ]
)

TOKENS: Final = pa.schema(
    [
        _RUN_ID,
        _PROMPT_ID,
        _MODE,
        _KL_FACTOR,
        _SEED,
        _field("position", pa.int32(), "tokens", "0-based position among the generated tokens", False),
        _field("decided", pa.bool_(), "flag", "whether the exit was drawn; false for the first token", False),
        _field("token_id", pa.int32(), "token id", "the token that was generated", False),
        _field("token", pa.string(), "text", "its text; a run's pieces concatenate to its text", False),
        _field("exit_layer", pa.int32(), "layer", "0-based decoder layer after which the token was read", False),
        _field(
            "kl",
            pa.list_(pa.float32()),
            "nats",
            "KL(final || layer) of the full-depth pass, one per exitable layer in order",
            False,
        ),
        _field(
            "exit_prob",
            pa.list_(pa.float32()),
            "probability",
            "the distribution the exit was drawn from: one per exitable layer, then the final layer; "
            "all on the final layer where no exit was drawn",
            False,
        ),
        _field("logprob", pa.float32(), "nats", "log-probability of token_id under the full-depth model", False),
        _field(
            "exit_logprob",
            pa.float32(),
            "nats",
            "log-probability of token_id under the distribution it was read from, before temperature and top_p",
        ),
        _field("final_token_id", pa.int32(), "token id", "the full-depth model's own most likely token", False),
        _field("entropy", pa.float32(), "nats", "entropy of the full-depth model's distribution", False),
        _field(
            "top_token_ids",
            pa.list_(pa.list_(pa.int32())),
            "token ids",
            "the most likely tokens of the full-depth pass read at each exitable layer, then at the final one, "
            "likeliest first; null where not recorded",
        ),
        _field("top_tokens", pa.list_(pa.list_(pa.string())), "text", "the text of top_token_ids, each by itself"),
        _field("top_prob", pa.list_(pa.list_(pa.float32())), "probability", "the probability of top_token_ids"),
        _field(
            "exit_top_token_ids",
            pa.list_(pa.int32()),
            "token ids",
            "the most likely tokens of the distribution that token_id was read from, likeliest first: the student's "
            "own at exit_layer for frozen_residual, else those of top_token_ids there; null where not recorded",
        ),
        _field("exit_top_tokens", pa.list_(pa.string()), "text", "the text of exit_top_token_ids, each by itself"),
        _field("exit_top_prob", pa.list_(pa.float32()), "probability", "the probability of exit_top_token_ids"),
    ]
)


def describe(schema: pa.Schema) -> str:
    """One line per column: name, type, unit, definition."""
    return "\n".join(
        f"{field.name}: {field.type}, {field.metadata[b'unit'].decode()}. {field.metadata[b'definition'].decode()}"
        for field in schema
    )
