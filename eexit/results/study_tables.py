"""The tables about a finished sweep: timings, judgements, choices, replays and chains, each declared once.

>>> print(TIMINGS.describe())
"""

from collections.abc import Callable
from typing import Final

import pyarrow as pa

from eexit.quality.rubric import TextScores
from eexit.results.study_table import StudyTable
from eexit.results.tables import (
    CONFIGURATION,
    RUN,
    SEED,
    boolean,
    described,
    float64,
    int32,
    int64,
    moment,
    schema,
    string,
    strings,
    uint64s,
)

TIMINGS: Final = StudyTable(
    "timings",
    "timing_id",
    {
        "timing_id": string(
            "id", "one call of eexit timings; all are kept, and seconds are compared within one only", nullable=False
        ),
        "started": moment("time", "when that call began to time", nullable=False),
        "configuration": string(
            "name",
            "as in generations; generate: that of transformers, with a layer behind it if it drafts there "
            "(assistant_early_exit), or lookup (--baselines of eexit timings)",
            nullable=False,
        ),
        **{name: field.with_nullable(True) for name, field in CONFIGURATION.items() if name != "configuration"},
        "batch": int32("rows", "sequences decoded together", nullable=False),
        "round": int32(
            "number",
            "from 1; in each round everything is timed once, in another order: compare within a round",
            nullable=False,
        ),
        "prompts": int32("prompts", "how many were decoded; they repeat to fill batches", nullable=False),
        "prompt_ids": strings("ids", "which they were"),
        "tokens": int64(
            "tokens",
            "timed tokens of all sequences, without each one's first two: the first comes from the prefill, and the "
            "clock starts after the step that generates the second ones; EOS ends no sequence",
            nullable=False,
        ),
        "seconds": float64("seconds", "the time that the timed tokens took, greedy, unobserved", nullable=False),
        **{
            name: float64("multiply-adds", f"{name} of the timed tokens, as in generations: {means}; null for generate")
            for name, means in {
                "macs_full": "what full depth costs",
                "macs_required": "the theoretical cost",
                "macs_executed": "the cost of what each sequence runs if decoded alone",
            }.items()
        },
        "identical": float64(
            "fraction", "sequences whose tokens all equal those of normal in the same round; null for normal"
        ),
        "first_difference": int32(
            "token",
            "position, from 0, of the first token that differs from normal's in any sequence; null if none does",
        ),
        "warm_up": float64("seconds", "that decoding took before the first round, which is not timed"),
        "drafted": int64("tokens", "of the timed passes, as in generations; null but for mode draft"),
        "accepted": int64("tokens", "likewise"),
        "device": string("name", "cpu, cuda or mps", nullable=False),
        "machine": string("text", "the processor or GPU", nullable=False),
        "threads": int32("threads", "of PyTorch on the CPU", nullable=False),
        "versions": string("text", "of Python and packages where it was timed", nullable=False),
        "model": string("name", "the model as the command named it", nullable=False),
        "dtype": string("name", "of the weights", nullable=False),
    },
)

JUDGEMENTS: Final = StudyTable(
    "judgements",
    None,
    {
        **RUN,
        **CONFIGURATION,
        **SEED,
        "judge": string("name", "the judging model, as the command named it", nullable=False),
        "rubric": string("version", "of the judge's instructions: compare scores of one rubric only", nullable=False),
        "started": moment(
            "time",
            "when that call of eexit judge began; of the rows of a run with one judge and rubric, a row without an "
            "error counts rather than one with an error, and then the latest",
            nullable=False,
        ),
        "status": string("name", "ok or error", nullable=False),
        "error": string("text", "why the judge gave no usable answer; null when ok"),
        "text_hash": string("hash", "of prompt and text: equal ones are judged once", nullable=False),
        **{
            name: int32("1 to 5", f"higher is better: {field.description}; null if error")
            for name, field in TextScores.model_fields.items()
        },
    },
    once=("run_id", "judge", "rubric"),
)


def _of_setting(start: str, which: str) -> dict[str, pa.Field]:
    """Return the columns about the setting of a choice that `which` describes; their names begin with `start`."""

    def column(of: Callable[[str, str], pa.Field], unit: str, means: str) -> pa.Field:
        return of(unit, f"of {which}: {means}; null if there is none")

    columns = {
        "configuration": column(string, "name", "its key, as in generations"),
        "mean_loss": column(float64, "1", "mean over the calibration prompts"),
        "n": column(int32, "prompts", "of the calibration split that have a loss"),
        "p_value": column(float64, "1", "of the hypothesis that its risk is above at_most"),
        "cost": column(float64, "fraction of full depth", "over the runs of the calibration prompts"),
        "reporting_mean_loss": column(float64, "1", "mean over the test prompts, which select nothing"),
        "reporting_n": column(int32, "prompts", "of the test split that have a loss"),
        "reporting_upper": column(
            float64, "1", "what the risk is at most by the test prompts alone, with the same confidence"
        ),
        "reporting_p_value": column(float64, "1", "p_value from the test prompts alone"),
    }
    return {f"{start}{name}": field for name, field in columns.items()}


_TESTED: Final = schema(
    {
        "configuration": string("name", "its key"),
        "mean_loss": float64("1", "mean over the calibration prompts"),
        "n": int32("prompts", "of the calibration split that have a loss"),
        "p_value": float64("1", "of the hypothesis that its risk is above at_most"),
        "certified": boolean("flag", "whether its risk is bounded with the confidence"),
        "cost": float64("fraction of full depth", "infinite where it is not known"),
        "prompts_needed": int64(
            "prompts",
            "calibration prompts that would certify it with probability 80 % if losses stay so distributed; null "
            "where they "
            "do, and if no number would",
        ),
        "accuracy": float64("fraction", "right answers among the calibration prompts; null without answers"),
        "normal_accuracy": float64("fraction", "the same of normal"),
        "changed": float64("fraction", "of its texts, those that are not normal's; null without normal"),
        "loss_of_right": float64(
            "fraction", "of the prompts that normal gets right, those that are lost; null where answers aren't the risk"
        ),
        "n_of_right": int32("prompts", "of the calibration split that normal gets right"),
        "p_of_right": float64("1", "as p_value, of these prompts alone; not the tested hypothesis"),
        "loss_of_prompts": float64(
            "1",
            "mean over single prompts, where mean_loss and p_value are of groups of unequal size, which count once "
            "each; null where all groups have as many prompts",
        ),
        "n_of_prompts": int32("prompts", "of these groups, likewise"),
    }
)

CHOICES: Final = StudyTable(
    "choices",
    "choice_id",
    {
        "choice_id": string("id", "one call of eexit choose; all are kept", nullable=False),
        "started": moment("time", "when the setting was chosen", nullable=False),
        "status": string(
            "name",
            "asked: the question, committed before any calibration loss is read; ok: its result, with the same "
            "choice_id",
            nullable=False,
        ),
        "risk": string("name", "disagreement, answers, perplexity or judge", nullable=False),
        "loss": string("text", "what the loss of a prompt is, between 0 and 1", nullable=False),
        "max_risk": float64("1", "the bound of the risk, which is the expected loss of a prompt", nullable=False),
        "confidence": float64("1", "with which the bound holds for what is certified", nullable=False),
        "cost_by": string("name", "what is cheap: run, needed, depth or right, as in eexit choose", nullable=False),
        "test": string("name", "exact (binomial) or betting, as in eexit.quality.risk_tests"),
        "order": string("name", "pareto, passed-on or equal, as in eexit.quality.learn_then_test"),
        "pilot": string("name", "the sweep whose prompts gave the order; null: a part of this one's, or none"),
        "question": int32(
            "number",
            "which use of these calibration prompts it is, from 1, in this folder and those beside it "
            "(eexit.studies.selection.alpha_spending)",
        ),
        "planned": int32("asks", "planned uses of these prompts, fixed at the first"),
        "error": float64("1", "error budget of this use: its share of 1 - confidence"),
        "model": string("name", "the model as the command named it: its uses are counted together"),
        "runs": string("hash", "of the sweep's configuration and model: whose losses were read"),
        "results": string("hash", "of the model, the artefacts and all runs that it was made from"),
        "units": uint64s("hashes", "of the calibration prompts, or of their groups"),
        "families": strings("names", "of each sequence: mode/rule, or pareto", nullable=False),
        "error_of_each": float64("1", "error / families: of each sequence, at the start", nullable=False),
        "asked": strings("names", "the settings, in the order of testing"),
        "seeds": int32("seeds", "over which the losses of a prompt were averaged first", nullable=False),
        **_of_setting("", "the chosen setting, the cheapest that is certified, which may cost more than full depth"),
        **_of_setting("naive_", "the cheapest setting with a mean_loss within the bound: no guarantee"),
        "tested": described(
            "",
            pa.list_(pa.struct(list(_TESTED))),
            "settings",
            "sequence by sequence, each in the order of testing: from the safe end to the bold one",
            nullable=False,
        ),
    },
    once=("choice_id",),
)

# Lists with a number for each prompt or group of a replay; NaN where no model was loaded.
OF_UNITS: Final = {
    "unit_macs_full": ("multiply-adds", "what full depth costs"),
    "unit_macs_to_exit": ("multiply-adds", "of the layers up to the exits and one read of each token"),
    "unit_cost_looks": ("multiply-adds", "of deciding, besides that read; NaN for oracles"),
    "unit_disagreement": ("fraction of decided tokens", "expected_disagreement of its texts"),
    "unit_changed": ("chance", "that any token of a text is not full depth's, given those before it"),
}

REPLAYS: Final = StudyTable(
    "replays",
    "replay_id",
    {
        "replay_id": string("id", "one call of eexit replay; all are kept", nullable=False),
        "started": moment("time", "when that call began to replay", nullable=False),
        **CONFIGURATION,
        "text_of": string(
            "name",
            "the configuration whose texts were replayed: all of the row is teacher-forced, given those texts",
            nullable=False,
        ),
        "prompts": int32("prompts", "how many have texts", nullable=False),
        "texts": int32(
            "texts", "prompts × seeds, without failed runs; prompts where all seeds have the same text", nullable=False
        ),
        "tokens": int64("tokens", "decided tokens of these texts", nullable=False),
        "drawn": boolean(
            "flag",
            "whether expected_kl and expected_disagreement are those of exits drawn with the runs' seeds, since "
            "random exits alter the KV cache; else they are exact expectations, or exits are not random",
            nullable=False,
        ),
        **{
            f"{name}{end}": float64(unit, f"{means}{of}", nullable=bool(end))
            for name, unit, means in (
                ("mean_depth", "fraction of L", "expected mean of (exit_layer + 1) / L over decided tokens"),
                (
                    "expected_kl",
                    "nats",
                    "expected KL(final || what is read at the exit), where final is the full-depth pass's",
                ),
                (
                    "expected_disagreement",
                    "fraction of decided tokens",
                    "expected share of tokens whose likeliest token at the exit is not that of full depth, given the "
                    "same text",
                ),
            )
            for end, of in (
                ("", "; mean over prompts, seeds averaged first"),
                ("_low", ": lower end of the 95 % interval over prompts; null below five"),
                ("_high", ": upper end of that interval"),
            )
        },
        "exit_distribution": described(
            "",
            pa.map_(pa.int32(), pa.float64()),
            "share of decided tokens",
            "exit layer to its expected share, every exitable layer and the final one",
            nullable=False,
        ),
        **{
            name: float64("multiply-adds", f"{name}, as in generations, {of}")
            for name, of in {
                "macs_full": "of all prompts, seeds averaged; null where no model was loaded",
                "macs_to_exit": "likewise, of layers up to the exits and one read of each token",
                "macs_required": "likewise, of exits drawn with the runs' seeds; 1 - macs_required / "
                "macs_full is saved",
                "macs_executed": "likewise, with what deciding would have cost; null for oracles too",
            }.items()
        },
        "units": uint64s("hashes", "of the prompts' texts, or of the groups that they name"),
        **{
            name: described("", pa.list_(pa.float32()), unit, f"{means}; of each of the units")
            for name, (unit, means) in OF_UNITS.items()
        },
        "readout": string("name", "how layers were read: lens, raw, or the folder of a readout that was trained"),
        "screen": string("name", "size of the screen by which rules decided, RANK:TOKENS; null: by the whole head"),
        "model": string("name", "the model as the command named it", nullable=False),
        "results": string("hash", "of the model, the texts and the readout that it was made from, and of screen"),
    },
)

_NULL: Final = "null below five prompts"
# Values of the column `chain` of `CHAINS`.
WHOLE_CHAIN: Final = "keep-100"
NO_CHAIN: Final = "keep-0"
CHAINS: Final = StudyTable(
    "chains",
    "chains_id",
    {
        "chains_id": string("id", "one call of eexit chains --necessity; all are kept", nullable=False),
        "started": moment("time", "when that call began", nullable=False),
        **CONFIGURATION,
        "chain": string(
            "name",
            "what follow-up prompts had in place of the whole chain of thought: keep-50 (per cent), budget-64 (tokens) "
            "or shuffle; or filler, which is equally long",
            nullable=False,
        ),
        "chain_of": string("name", "the configuration that wrote the whole chains; null in older tables for keep-0"),
        "steps": int32("steps", "of the prompts that this row is of; null: all prompts"),
        **{
            f"{name}{end}": float64(unit, f"{means}{of}")
            for name, unit, means in (
                ("accuracy", "fraction", "right answers in the sweep itself, not in follow-ups, of the same prompts"),
                ("closed", "fraction", "chains of chain_of that closed by themselves, within max_new_tokens"),
                (
                    "accuracy_with",
                    "fraction",
                    "right answers to follow-up prompts with the whole chain; null in older tables, where necessity is "
                    "accuracy less accuracy_without",
                ),
                ("accuracy_without", "fraction", "right answers to follow-up prompts with chain in its place"),
                ("necessity", "difference of fractions", "accuracy_with less accuracy_without, paired over prompts"),
                ("necessity_closed", "difference of fractions", "necessity of prompts whose chains closed"),
                (
                    "beside_normal",
                    "difference of fractions",
                    "necessity less that of normal, paired over prompts; null for normal",
                ),
                (
                    "beside_normal_closed",
                    "difference of fractions",
                    "beside_normal of prompts whose chains closed in both",
                ),
                (
                    "accuracy_beside_normal_closed",
                    "difference of fractions",
                    "accuracy less that of normal, of prompts whose chains closed in both",
                ),
                (
                    "beside_control",
                    "difference of fractions",
                    "necessity less that of the control, which exits as often at each layer, paired over prompts; of "
                    "chains that each wrote itself, or that one wrote for both; null without a control",
                ),
            )
            for end, of in (
                ("", ""),
                ("_low", f": lower end of the 95 % interval; {_NULL}"),
                ("_high", f": upper end of that interval; {_NULL}"),
                ("_n", ": over how many prompts; those of a group count once"),
            )
        },
        "follow_ups": strings("names", "the sweeps of follow-up prompts", nullable=False),
    },
)

STUDY_TABLES: Final = (TIMINGS, REPLAYS, JUDGEMENTS, CHOICES, CHAINS)
