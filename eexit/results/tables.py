"""The tables of a sweep: a row per run, and a row per generated token.

Arrow field metadata defines the name, unit and meaning of each column, in this one place:

    >>> print(describe(GENERATIONS))

Columns that a step records are declared in `eexit.results.token_columns`. A decided token is one with an exit decision:
every token of a run but the first, which comes from the final layer unless prompt tokens exit too.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final, get_args

import pyarrow as pa

from eexit.method.rules import RULES
from eexit.plan.configuration import all_modes
from eexit.plan.sweep_config import Observe
from eexit.quality.thinking import ANSWER, PARTS, THINKING
from eexit.results.token_columns import recorded


def nested(kind: pa.DataType, axes: str) -> pa.DataType:
    """Return nested lists of `kind`, one level per axis."""
    for _ in axes:
        kind = pa.list_(kind)
    return kind


def described(name: str, kind: pa.DataType, unit: str, definition: str, nullable: bool = True) -> pa.Field:
    """Return a column of a table, with its unit and definition as metadata."""
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "definition": definition})


# A column constructor for each type, as in `int32("tokens", "what they are", nullable=False)`; the table sets the name.
boolean, int32, int64, float64, string, strings, int32s, uint64s, moment, counts_by_layer = (
    partial(described, "", kind)
    for kind in (
        pa.bool_(), pa.int32(), pa.int64(), pa.float64(), pa.string(), pa.list_(pa.string()), pa.list_(pa.int32()),
        pa.list_(pa.uint64()), pa.timestamp("us", "UTC"), pa.map_(pa.int32(), pa.int32()),
    )
)  # fmt: skip

# Columns that identify a run, in both tables.
RUN: Final = {
    "run_id": string("hash", "content hash of model, prompt, configuration and seed", nullable=False),
    "prompt_id": string("id", "the prompt's id, unique in the sweep", nullable=False),
}
SEED: Final = {"seed": int64("id", "seed of the exit and sampling draws", nullable=False)}

# Columns of a run's configuration, in both tables: the `columns` of each kind of `eexit.plan.configuration`.
CONFIGURATION: Final = {
    "configuration": string("name", "mode/rule/parameter, or normal: what to group by", nullable=False),
    "mode": string("name", "; ".join(f"{mode}: {does}" for mode, does in all_modes().items()), nullable=False),
    "rule": string("name", "; ".join(f"{name}: {rule.definition}" for name, rule in RULES.items() if not rule.source)),
    "parameter": float64("of the rule", "the rule's parameter; null for a rule without a number"),
    "kl_factor": float64("1/nat", "parameter, where it is a KL factor: higher is more conservative"),
    "exit_set": string("layers", "0-based layers that it may exit at, as in 20,25; null: every exitable one"),
    "gate": string(
        "chance",
        "the threshold of its gate, which predicts at least this exit probability where a layer is read; else null",
    ),
    "prompt_exits": boolean("flag", "whether prompt tokens exit too; null without exits"),
    "control_of": string("name", "the configuration whose exit layers this one follows; else null"),
    "draft_layer": int32("layer", "0-based layer after which tokens are drafted; null but for draft"),
    "draft_length": string("tokens", "tokens that are drafted at a time at most; else null"),
}


def schema(columns: Mapping[str, pa.Field]) -> pa.Schema:
    """Return the schema of a table with these columns."""
    return pa.schema([field.with_name(name) for name, field in columns.items()])


ALONE: Final = "as if decoded alone"

# Columns about thinking and answer; all null where texts have no chain of thought.
OF_PARTS: Final = {
    "n_thinking_tokens": int32("tokens", "generated tokens of the chain of thought, its marks included"),
    "n_answer_tokens": int32("tokens", "the other generated tokens, with the one that ended the text"),
    "thinking_closed": boolean(
        "flag", "whether the chain came to its end: without that, the text has no answer; null where it has no chain"
    ),
    **{
        f"{name}_{part}": described("", kind, unit, f"{definition}, of {part} alone")
        for part in PARTS
        for name, kind, unit, definition in (
            ("exit_rate", pa.float64(), "fraction of decided tokens", "tokens read before the final layer"),
            ("mean_depth", pa.float64(), "fraction of L", "mean of (exit_layer + 1) / L over decided tokens"),
            ("exit_layer_counts", pa.map_(pa.int32(), pa.int32()), "decided tokens", "as exit_layer_counts"),
            ("disagreement", pa.float64(), "fraction of decided tokens", "as disagreement"),
            ("kl", pa.list_(pa.float64()), "nats", "mean kl over decided tokens, one per exitable layer in order"),
        )
    },
}

GENERATIONS: Final = schema(
    {
        **RUN,
        "prompt": string("text", "the user's prompt", nullable=False),
        "answer": string("text", "the prompt's right answer; else null"),
        "kind": string("name", "the prompt's kind or, without one, that of its id (sum of sum-17); else null"),
        "group": string("name", "the group of prompts that depend on each other, one sampling unit; else null"),
        "steps": int32("steps", "steps from the prompt to its answer; else null"),
        **CONFIGURATION,
        "readout": string("name", "how a layer's hidden state becomes logits: a name or a folder"),
        **SEED,
        "model": string("name", "the model as the command named it", nullable=False),
        "status": string("name", "ok or error", nullable=False),
        "error": string("text", "why the run could not be done; null when ok"),
        "finish_reason": string("name", "eos: the model ended; length: max_new_tokens; null on error"),
        "text": string("text", "the generated text, without the token that ended it; null on error"),
        "prompt_token_ids": int32s(
            "token ids",
            "exactly the model's input: the prompt in the model's chat template, in which names of control tokens in "
            "prompts are plain text unless the sweep has control_tokens; null on error",
        ),
        "found_answer": string(
            "text",
            "what of the text counts as its answer, by the prompt's answer_pattern or the default "
            "(eexit.quality.grading), where the text has parts of its answer alone; null if nothing does, and if the "
            "prompt has neither an answer nor a pattern",
        ),
        "correct": boolean(
            "flag",
            "whether found_answer is the answer or, if there is a pattern alone, whether the text matches it; its mean "
            "is the accuracy; null if the prompt has neither, and on error",
        ),
        "n_prompt_tokens": int32("tokens", "length of prompt_token_ids; null on error"),
        "n_tokens": int32("tokens", "generated tokens, the ending one included; null on error"),
        **OF_PARTS,
        "exit_rate": float64("fraction of decided tokens", "tokens read before the final layer"),
        "mean_depth": float64("fraction of L", "mean of (exit_layer + 1) / L over decided tokens"),
        "prompt_mean_depth": float64(
            "fraction of L", "mean depth of the prompt's tokens but the last; null without prompt exits"
        ),
        "disagreement": float64(
            "fraction of decided tokens",
            "tokens whose token_id is not final_token_id, the full-depth model's likeliest token given the same text; "
            "for normal 0 in float32, unless tokens are sampled; null where no token was decided, and with "
            "--record-full-depth none",
        ),
        "exit_layer_counts": counts_by_layer(
            "decided tokens", "exit layer to number of decided tokens, every exitable layer and the final one"
        ),
        "macs_full": float64(
            "multiply-adds",
            "what full depth would have cost for the decided tokens; like all costs, without the prompt's pass unless "
            "its tokens exit; null on error",
        ),
        "macs_prompt": float64("multiply-adds", "of the prompt's pass at full depth; null on error"),
        "macs_to_exit": float64(
            "multiply-adds",
            "of the layers up to the exits and one read of each token: as if neither deciding nor what later tokens "
            "need past an exit cost anything",
        ),
        "macs_required": float64(
            "multiply-adds",
            "what these exits need if deciding were free and the deferral of layers unbounded; "
            "1 - macs_required / macs_full is the theoretical saving",
        ),
        "macs_executed": float64(
            "multiply-adds",
            "what is run for the sequence if decoded alone: layers, head, and keys and values alone; "
            "1 - macs_executed / macs_full is the run saving; null for oracles, which save nothing at run time",
        ),
        "layers_run": int64("layers", f"layers run, summed over decided tokens; {ALONE}; null for oracles"),
        "head_reads": int64(
            "reads",
            f"hidden states read with the whole head, for deciding and for the token; {ALONE}; null for oracles",
        ),
        "screen_reads": int64("reads", "hidden states read through a screen, for deciding; null for oracles"),
        "probe_reads": int64("reads", "hidden states that a probe read; null for oracles"),
        "gate_reads": int64("reads", "hidden states that a gate read; null for oracles"),
        "screen_misses": int64(
            "decided tokens", "early exits decided on a screen that lacked the whole head's top token; null for oracles"
        ),
        "kv_writes": int64(
            "tokens × layers",
            f"pairs of token and layer of which keys and values alone were computed; {ALONE}; null for oracles",
        ),
        "drafted": int64(
            "tokens", "tokens that were drafted, those after the first wrong one included; null but for mode draft"
        ),
        "accepted": int64("tokens", "drafted tokens that full depth agreed with; null but for mode draft"),
        "acceptance": float64("fraction", "accepted / drafted; null but for mode draft"),
        "acceptance_per_token": float64(
            "fraction",
            "accepted of the drafted tokens that came to be compared: those up to the first wrong one; null but for "
            "mode draft",
        ),
        "passes": int64(
            "passes", "passes of the layers after draft_layer, each of which verifies drafts; null but for mode draft"
        ),
        "tokens_per_pass": float64("tokens", "decided tokens per pass; null but for mode draft"),
        "layer_calls": int64(
            "calls",
            "how often a layer was run for the run, be it for one token or for several together; layers_run counts "
            "each token; null but for mode draft",
        ),
        "expected_time": float64(
            "1",
            "its time as a multiple of full depth's, lower is better, if a call of a layer or of the head takes its "
            "cost of one token whatever the number of tokens, attention apart: as where fetching weights takes the "
            "time; null but for mode draft",
        ),
        "perplexity": float64(
            "1",
            "exp of the mean negative logprob of the generated tokens under the full-depth model given the same text; "
            "null with --record-full-depth none",
        ),
        "tokens_until_difference": int32(
            "tokens",
            "generated tokens before the first that differs from the prompt's normal run of the same seed; "
            "n_tokens if none does; null without a normal run",
        ),
        "exits_on_normal": int32(
            "decided tokens",
            "tokens read before the final layer after a text that is still that of normal: up to the first token that "
            "differs; null without a normal run, with --record-top-k 0 and with --record-full-depth none",
        ),
        "contradicted_on_normal": int32(
            "decided tokens",
            "those of exits_on_normal of which the likeliest token at the exit is not final_token_id: the rule's "
            "condition was met, and the final layer contradicts",
        ),
        "equal_share": float64(
            "fraction",
            "positions at which this run and normal have the same token, over the longer of the two; "
            "null without a normal run",
        ),
        "lcs_share": float64(
            "fraction",
            "longest common subsequence of tokens with normal, over the longer of the two; null without a normal run",
        ),
        "distinct_2": float64("fraction", "distinct token bigrams over all bigrams; null below 2 tokens"),
        "distinct_3": float64("fraction", "distinct token trigrams over all; null below 3 tokens"),
        "longest_loop": int32(
            "tokens", "longest stretch that repeats itself back to back at least once, whatever its period; 0 if none"
        ),
    }
)


def token_fields() -> Iterator[pa.Field]:
    """Yield the recorded columns of the `tokens` table; after a column of token ids, the column of their texts."""
    for _, name, axes, column in recorded():
        left_out = [each for each in get_args(Observe) if each not in column.observed]
        when = f"; null with --record-full-depth {' or '.join(left_out)}" if left_out else ""
        is_nullable = column.nullable or bool(left_out)
        yield described(name, nested(column.kind, axes), column.unit, f"{column.definition}{when}", is_nullable)
        if column.texts:
            yield described(column.texts, nested(pa.string(), axes), "text", f"the text of {name}, each by itself")


TOKENS: Final = schema(
    {
        **RUN,
        **CONFIGURATION,
        **SEED,
        "position": int32("tokens", "0-based position among the generated tokens", nullable=False),
        "decided": boolean(
            "flag", "whether the exit was drawn; without prompt exits, false for the first token", nullable=False
        ),
        "token": string("text", "the text of token_id; a run's concatenate to its text", nullable=False),
        "part": string(
            "name",
            f"{THINKING}: of a chain of thought, with the marks that open and close it; {ANSWER}: of anything else; by "
            "the token's first character; null where texts have no parts",
        ),
        **{field.name: field for field in token_fields()},
    }
)


def describe(schema: pa.Schema) -> str:
    """Return one line per column: name, type, unit, definition."""
    return "\n".join(
        f"{field.name}: {field.type}, {field.metadata[b'unit'].decode()}. {field.metadata[b'definition'].decode()}"
        for field in schema
    )
