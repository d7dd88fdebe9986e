"""The tables of a sweep: a row per run, and a row per generated token.

Names, units and definitions of the columns are given here once, as Arrow field metadata:

    >>> print(describe(GENERATIONS))

Columns that a step records are declared in `eexit.decode.trace`. Decided tokens are those whose exit was drawn: every
token but a run's first, which always comes from the final layer.
"""

from typing import Final

import pyarrow as pa

from eexit.decode.trace import described, token_fields
from eexit.method.rules import RULES
from eexit.plan.configuration import ALL_MODES

# The identity of a run, in both tables.
RUN_ID = described("run_id", pa.string(), "hash", "content hash of model, prompt, configuration and seed", False)
PROMPT_ID = described("prompt_id", pa.string(), "id", "the prompt's id, unique in the sweep", False)
SEED = described("seed", pa.int64(), "id", "seed of the exit and sampling draws", False)

# The configuration of a run, in both tables: what `columns` of each kind of `eexit.plan.configuration` gives.
CONFIGURATION: Final = [
    described("configuration", pa.string(), "name", "mode/rule/parameter, or normal: what to group by", False),
    described("mode", pa.string(), "name", "; ".join(f"{mode}: {does}" for mode, does in ALL_MODES.items()), False),
    described("rule", pa.string(), "name", "; ".join(f"{name}: {rule.definition}" for name, rule in RULES.items())),
    described("parameter", pa.float64(), "of the rule", "the rule's parameter; null for a rule without a number"),
    described("kl_factor", pa.float64(), "1/nat", "parameter, where it is a KL factor: higher is more conservative"),
    described(
        "exit_set", pa.string(), "layers", "0-based layers that it may exit at, as in 20,25; null: every exitable one"
    ),
    described(
        "gate", pa.string(), "chance", "the threshold of its gate: a layer is read from this chance on; else null"
    ),
    described("control_of", pa.string(), "name", "the configuration whose exit layers this one follows; else null"),
    described("draft_layer", pa.int32(), "layer", "0-based layer after which tokens are drafted; null but for draft"),
    described("draft_length", pa.string(), "tokens", "tokens that are drafted at a time at most, or auto; else null"),
]

GENERATIONS: Final = pa.schema(
    [
        RUN_ID,
        PROMPT_ID,
        described("prompt", pa.string(), "text", "the user's prompt", False),
        described("answer", pa.string(), "text", "the answer that is right, as the prompt brought it; else null"),
        *CONFIGURATION,
        described("readout", pa.string(), "name", "how a layer's residual stream becomes logits: a name or a folder"),
        SEED,
        described("model", pa.string(), "name", "the model as it was asked for", False),
        described("status", pa.string(), "name", "ok or error", False),
        described("error", pa.string(), "text", "why the run could not be done; null when ok"),
        described("finish_reason", pa.string(), "name", "eos: the model ended; length: max_new_tokens; null on error"),
        described("text", pa.string(), "text", "the generated text, without the token that ended it; null on error"),
        described(
            "prompt_token_ids",
            pa.list_(pa.int32()),
            "token ids",
            "exactly what the model saw: the prompt in the model's chat template, in which names of control tokens in "
            "prompts are plain text unless the sweep says control_tokens; null on error",
        ),
        described(
            "found_answer",
            pa.string(),
            "text",
            "what of the text counts as its answer, by the prompt's answer_pattern or the default "
            "(eexit.quality.answers); null if nothing does, and if the prompt brought neither an answer nor a pattern",
        ),
        described(
            "correct",
            pa.bool_(),
            "flag",
            "whether found_answer is the answer or, if there is a pattern alone, whether the text matches it; its mean "
            "is the accuracy; null if the prompt brought neither, and on error",
        ),
        described("n_prompt_tokens", pa.int32(), "tokens", "length of prompt_token_ids; null on error"),
        described("n_tokens", pa.int32(), "tokens", "generated tokens, the ending one included; null on error"),
        described("exit_rate", pa.float64(), "fraction of decided tokens", "tokens read before the final layer"),
        described("mean_depth", pa.float64(), "fraction of L", "mean of (exit_layer + 1) / L over decided tokens"),
        described(
            "disagreement",
            pa.float64(),
            "fraction of decided tokens",
            "tokens whose token_id is not final_token_id, the full-depth model's likeliest token given the same text; "
            "with temperature 0 it is 0 for normal; with a temperature above 0 a sampled token can differ although "
            "nothing exited; null where no token was decided, and with --observe none",
        ),
        described(
            "exit_layer_counts",
            pa.map_(pa.int32(), pa.int32()),
            "decided tokens",
            "exit layer to number of decided tokens, every exitable layer and the final one",
        ),
        described(
            "cost_full",
            pa.float64(),
            "multiply-adds",
            "what full depth would have cost for the decided tokens; like all costs, without the prompt's pass, which "
            "is the same in every configuration; null on error and in results of older formats",
        ),
        described(
            "cost_full_whole_head",
            pa.float64(),
            "multiply-adds",
            "the same if tokens are read with the whole head, where --head is a screen; else cost_full",
        ),
        described(
            "cost_needed",
            pa.float64(),
            "multiply-adds",
            "what the exits as taken need if deciding were free and the deferral of layers unbounded; "
            "1 - cost_needed / cost_full is the theoretical saving",
        ),
        described(
            "cost_run",
            pa.float64(),
            "multiply-adds",
            "what was run: layers, head, and keys and values alone; 1 - cost_run / cost_full is the run saving; "
            "null for oracles, which save nothing at run time",
        ),
        described("layers_run", pa.int64(), "layers", "layers run, summed over decided tokens; null for oracles"),
        described(
            "head_reads",
            pa.int64(),
            "reads",
            "residual streams read with the whole head, for deciding and for the token; null for oracles",
        ),
        described(
            "shortlist_reads",
            pa.int64(),
            "reads",
            "residual streams read for the tokens of a shortlist, for deciding; null for oracles",
        ),
        described(
            "screen_reads",
            pa.int64(),
            "reads",
            "residual streams read through a screen, for deciding; null for oracles",
        ),
        described("probe_reads", pa.int64(), "reads", "residual streams that a probe looked at; null for oracles"),
        described("gate_reads", pa.int64(), "reads", "residual streams that a gate looked at; null for oracles"),
        described(
            "screen_misses",
            pa.int64(),
            "decided tokens",
            "tokens that exited by what a screen let through, among which the whole head's likeliest was not; null for "
            "oracles and in results of older versions",
        ),
        described(
            "keys_written",
            pa.int64(),
            "tokens × layers",
            "pairs of token and layer of which keys and values alone were computed; null for oracles",
        ),
        *(
            described(name, kind, unit, f"{means}; null but for mode draft")
            for name, kind, unit, means in (
                ("drafted", pa.int64(), "tokens", "tokens that were drafted, those after the first wrong one included"),
                ("accepted", pa.int64(), "tokens", "drafted tokens that full depth agreed with"),
                ("acceptance", pa.float64(), "fraction", "accepted / drafted"),
                (
                    "acceptance_per_token",
                    pa.float64(),
                    "fraction",
                    "accepted of the drafted tokens that came to be compared: those up to the first wrong one",
                ),
                (
                    "passes",
                    pa.int64(),
                    "passes",
                    "passes of the layers after draft_layer, each of which verifies drafts",
                ),
                ("tokens_per_pass", pa.float64(), "tokens", "decided tokens per pass"),
                (
                    "layer_calls",
                    pa.int64(),
                    "calls",
                    "how often a layer was run for the run, be it for one token or for several together; layers_run "
                    "counts each token",
                ),
                (
                    "expected_speedup",
                    pa.float64(),
                    "1",
                    "how many times as fast as normal it is if a call of a layer or of the head takes its cost of one "
                    "token whatever the number of tokens, attention apart: as where fetching weights takes the time",
                ),
            )
        ),
        described(
            "perplexity",
            pa.float64(),
            "1",
            "exp of the mean negative logprob of the generated tokens under the full-depth model given the same text; "
            "null with --observe none",
        ),
        described(
            "tokens_until_difference",
            pa.int32(),
            "tokens",
            "generated tokens before the first that differs from the prompt's normal run of the same seed; "
            "n_tokens if none does; null without a normal run",
        ),
        described(
            "equal_share",
            pa.float64(),
            "fraction",
            "positions at which this run and normal have the same token, over the longer of the two; "
            "null without a normal run",
        ),
        described(
            "lcs_share",
            pa.float64(),
            "fraction",
            "longest common subsequence of tokens with normal, over the longer of the two; null without a normal run",
        ),
        described(
            "distinct_2", pa.float64(), "fraction", "distinct token bigrams over all bigrams; null below 2 tokens"
        ),
        described("distinct_3", pa.float64(), "fraction", "distinct token trigrams over all; null below 3 tokens"),
        described(
            "longest_loop",
            pa.int32(),
            "tokens",
            "longest stretch that repeats itself back to back at least once, whatever its period; 0 if none",
        ),
    ]
)

TOKENS: Final = pa.schema(
    [
        RUN_ID,
        PROMPT_ID,
        *CONFIGURATION,
        SEED,
        described("position", pa.int32(), "tokens", "0-based position among the generated tokens", False),
        described("decided", pa.bool_(), "flag", "whether the exit was drawn; false for the first token", False),
        described("token", pa.string(), "text", "the text of token_id; a run's concatenate to its text", False),
        *token_fields(),
    ]
)


def describe(schema: pa.Schema) -> str:
    """One line per column: name, type, unit, definition."""
    return "\n".join(
        f"{field.name}: {field.type}, {field.metadata[b'unit'].decode()}. {field.metadata[b'definition'].decode()}"
        for field in schema
    )
