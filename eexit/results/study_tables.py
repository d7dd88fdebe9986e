"""The tables about a finished sweep: its times, judgements, choices, replays and scores. Each is declared once, here.

>>> print(TIMINGS.describe())
"""

from typing import Final

import pyarrow as pa

from eexit.decode.trace import described
from eexit.quality.rubric import TextScores
from eexit.results.study_table import Table
from eexit.results.tables import CONFIGURATION, PROMPT_ID, RUN_ID, SEED

TIMINGS: Final = Table(
    "timings",
    "timing_id",
    [
        described(
            "timing_id",
            pa.string(),
            "id",
            "one call of jobs/timings.py; all are kept, and seconds are compared within one only",
            False,
        ),
        described("started", pa.timestamp("us", "UTC"), "time", "when that call began to time", False),
        described(
            "configuration",
            pa.string(),
            "name",
            "as in generations; generate: that of transformers, with a layer behind it if it drafts there "
            "(assistant_early_exit)",
            False,
        ),
        *(field.with_nullable(True) for field in CONFIGURATION[1:]),
        described("batch", pa.int32(), "rows", "rows that are decoded together", False),
        described(
            "round",
            pa.int32(),
            "number",
            "from 1; in each round everything is timed once, in another order: compare within a round",
            False,
        ),
        described("prompts", pa.int32(), "prompts", "how many were decoded; they repeat to fill batches", False),
        described("prompt_ids", pa.list_(pa.string()), "ids", "which they were; null in results of older versions"),
        described(
            "tokens",
            pa.int64(),
            "tokens",
            "the timed ones, of all rows: not each row's first two, since the first comes from the prompt's "
            "pass, and the clock starts after the step that gives all rows their second; rows do not end at EOS",
            False,
        ),
        described("seconds", pa.float64(), "seconds", "the time that the timed tokens took, greedy, unobserved", False),
        *(
            described(name, pa.float64(), "multiply-adds", f"{name} of the timed tokens, as in generations: {means}")
            for name, means in (
                ("cost_full", "what full depth costs; null for generate"),
                ("cost_needed", "the theoretical cost; null for generate"),
                ("cost_run", "the cost of what was run; null for generate"),
            )
        ),
        described("drafted", pa.int64(), "tokens", "of the timed passes, as in generations; null but for mode draft"),
        described("accepted", pa.int64(), "tokens", "likewise"),
        *(
            described(name, pa.float64(), "multiply-adds", f"{means}; null but for mode draft")
            for name, means in (
                (
                    "cost_serial",
                    "what the timed passes cost if a call of a layer or of the head costs as much as for one token, "
                    "attention apart",
                ),
                ("cost_serial_full", "the same of full depth; over cost_serial, it is the expected speed-up"),
            )
        ),
        described("device", pa.string(), "name", "cpu, cuda or mps", False),
        described("machine", pa.string(), "text", "the processor or GPU", False),
        described("threads", pa.int32(), "threads", "of PyTorch on the CPU", False),
        described("versions", pa.string(), "text", "of Python and packages where it was timed", False),
        described("model", pa.string(), "name", "the model as it was asked for", False),
        described("dtype", pa.string(), "name", "of the weights", False),
    ],
)

JUDGEMENTS: Final = Table(
    "judgements",
    None,
    [
        RUN_ID,
        PROMPT_ID,
        *CONFIGURATION,
        SEED,
        described("judge", pa.string(), "name", "the judging model, as it was asked for", False),
        described(
            "rubric", pa.string(), "version", "of what the judge is asked: compare scores of one rubric only", False
        ),
        described(
            "started",
            pa.timestamp("us", "UTC"),
            "time",
            "when that call of jobs/judge.py began; of the rows of a run with one judge and rubric, a row without an "
            "error counts rather than one with an error, and then the latest (eexit.studies.judging.judgements)",
            False,
        ),
        described("status", pa.string(), "name", "ok or error", False),
        described("error", pa.string(), "text", "why the judge gave no usable answer; null when ok"),
        described("text_hash", pa.string(), "hash", "of prompt and text: equal ones are judged once", False),
        *(
            described(name, pa.int32(), "1 to 5", f"higher is better: {field.description}; null if it was not asked")
            for name, field in TextScores.model_fields.items()
        ),
        described(
            "preferred",
            pa.string(),
            "name",
            "this, normal or tie: which text the judge prefers, this run's or that of the prompt's normal run of the "
            "same seed, without knowing which is which; a tie without asking if the texts are the same; null if they "
            "were not compared, and for normal",
        ),
        described("pair_hash", pa.string(), "hash", "of prompt and both texts, where they were compared"),
        described(
            "orders",
            pa.int32(),
            "orders",
            "1: compared in an order drawn by a hash; 2: in both orders, and a tie where they disagree; else null",
        ),
    ],
    once=("run_id", "judge", "rubric"),
)
CHOICES: Final = Table(
    "choices",
    "choice_id",
    [
        described("choice_id", pa.string(), "id", "one call of jobs/choose.py; all are kept", False),
        described("started", pa.timestamp("us", "UTC"), "time", "when the setting was chosen", False),
        described(
            "status",
            pa.string(),
            "name",
            "asked: what is asked, which lands before the losses of prompts for choosing are looked at; ok: what came "
            "of it, of the same choice_id",
            False,
        ),
        described("risk", pa.string(), "name", "disagreement, answers, perplexity or judge", False),
        described("loss", pa.string(), "text", "what the loss of a prompt is, between 0 and 1", False),
        described("at_most", pa.float64(), "1", "the bound of the risk, which is the expected loss of a prompt", False),
        described("confidence", pa.float64(), "1", "with which the bound holds for what is certified", False),
        described("cost_by", pa.string(), "name", "what is cheap: run, needed or depth, as in jobs/choose.py", False),
        described(
            "test",
            pa.string(),
            "name",
            "exact (binomial), betting or hoeffding-bentkus, as in eexit.quality.risk_tests; null in older results, "
            "which used the last",
        ),
        described(
            "order",
            pa.string(),
            "name",
            "pareto, passed-on or equal, as in eexit.quality.learn_then_test; null in older results, which were equal",
        ),
        described(
            "pilot", pa.string(), "name", "the sweep whose prompts gave the order; null: a part of this one's, or none"
        ),
        described(
            "question",
            pa.int32(),
            "number",
            "which ask of these prompts for choosing it was, from 1, by this folder and those beside it "
            "(eexit.studies.choosing.asks); null in older results",
        ),
        *(
            described(name, kind, unit, f"{means}; null in older results")
            for name, kind, unit, means in (
                ("planned", pa.int32(), "asks", "of these prompts, how many were planned at the first one"),
                ("error", pa.float64(), "1", "what this ask may err with: its share of 1 - confidence"),
                ("model", pa.string(), "name", "the model as it was asked for: asks of it are counted together"),
                ("runs", pa.string(), "hash", "of the sweep's configuration and model: whose losses were looked at"),
                ("units", pa.list_(pa.uint64()), "hashes", "of the prompts for choosing, or of their groups"),
            )
        ),
        described("families", pa.list_(pa.string()), "names", "of each sequence: mode/rule, or pareto", False),
        described("error_of_each", pa.float64(), "1", "error / families: of each sequence, at the start", False),
        described(
            "asked", pa.list_(pa.string()), "names", "the settings, in the order of testing; null in older results"
        ),
        described("seeds", pa.int32(), "seeds", "over which the losses of a prompt were averaged first", False),
        *(
            described(f"{start}{name}", kind, unit, f"of {whose}: {means}; null if there is none")
            for start, whose in (
                ("", "the chosen setting, the cheapest that is certified and costs less than full depth"),
                ("naive_", "the cheapest below full depth's cost with a mean_loss within the bound: no guarantee"),
            )
            for name, kind, unit, means in (
                ("configuration", pa.string(), "name", "its key, as in generations"),
                ("mean_loss", pa.float64(), "1", "mean over the prompts for choosing"),
                ("n", pa.int32(), "prompts", "for choosing that have a loss"),
                ("p_value", pa.float64(), "1", "of the hypothesis that its risk is above at_most"),
                ("cost", pa.float64(), "fraction of full depth", "over the runs of the prompts for choosing"),
                ("reporting_mean_loss", pa.float64(), "1", "mean over the prompts for reporting, which chose nothing"),
                ("reporting_n", pa.int32(), "prompts", "for reporting that have a loss"),
                (
                    "reporting_upper",
                    pa.float64(),
                    "1",
                    "what the risk is at most by the prompts for reporting alone, with the same confidence",
                ),
                ("reporting_p_value", pa.float64(), "1", "p_value from the prompts for reporting alone"),
            )
        ),
        described(
            "tested",
            pa.list_(
                pa.struct(
                    [
                        described("configuration", pa.string(), "name", "its key"),
                        described("mean_loss", pa.float64(), "1", "mean over the prompts for choosing"),
                        described("n", pa.int32(), "prompts", "for choosing that have a loss"),
                        described("p_value", pa.float64(), "1", "of the hypothesis that its risk is above at_most"),
                        described("certified", pa.bool_(), "flag", "whether its risk is bounded with the confidence"),
                        described("cost", pa.float64(), "fraction of full depth", "infinite where it is not known"),
                        described(
                            "prompts_needed",
                            pa.int64(),
                            "prompts",
                            "for choosing, that would certify it with a chance of 80 % if losses stay so distributed; "
                            "null where they do, and if no number would",
                        ),
                        *(
                            described(name, pa.float64(), "fraction", f"{means}; null in older results")
                            for name, means in (
                                ("accuracy", "right answers among the prompts for choosing; null without answers"),
                                ("normal_accuracy", "the same of normal"),
                                ("changed", "of its texts, those that are not normal's; null without normal"),
                            )
                        ),
                    ]
                )
            ),
            "settings",
            "sequence by sequence, each in the order of testing: from the safe end to the bold one",
            False,
        ),
    ],
    once=("choice_id",),
)


REPLAYS: Final = Table(
    "replays",
    "replay_id",
    [
        described("replay_id", pa.string(), "id", "one call of jobs/replay.py; all are kept", False),
        described("started", pa.timestamp("us", "UTC"), "time", "when that call began to replay", False),
        *CONFIGURATION,
        described(
            "text_of",
            pa.string(),
            "name",
            "the configuration whose texts were replayed: all of the row is teacher-forced, given those texts",
            False,
        ),
        described("prompts", pa.int32(), "prompts", "how many have texts", False),
        described(
            "texts",
            pa.int32(),
            "texts",
            "prompts × seeds, without failed runs; prompts where all seeds have the same text",
            False,
        ),
        described("tokens", pa.int64(), "tokens", "decided tokens of these texts", False),
        described(
            "drawn",
            pa.bool_(),
            "flag",
            "whether expected_kl and expected_disagreement are those of exits drawn with the runs' seeds, since exits "
            "left to chance alter the state; else they are exact expectations, or the rule leaves nothing to chance",
            False,
        ),
        *(
            described(f"{name}{end}", pa.float64(), unit, f"{means}{of}", nullable=bool(end))
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
        ),
        described(
            "exit_distribution",
            pa.map_(pa.int32(), pa.float64()),
            "share of decided tokens",
            "exit layer to its expected share, every exitable layer and the final one",
            False,
        ),
        *(
            described(name, pa.float64(), "multiply-adds", f"{name}, as in generations, {of}")
            for name, of in (
                ("cost_full", "of all prompts, seeds averaged; null where no model was loaded"),
                ("cost_needed", "likewise, of exits drawn with the runs' seeds; 1 - cost_needed / cost_full is saved"),
                ("cost_run", "likewise, with what deciding would have cost; null for oracles too"),
            )
        ),
        *(
            described(name, pa.string(), "name", f"{means}; null in results of older versions")
            for name, means in (
                ("readout", "how layers were read: lens, raw, or the folder of a readout that was trained"),
                ("decide_on", "what rules that read looked at, as in a sweep's configuration; head: the whole head"),
            )
        ),
        described("model", pa.string(), "name", "the model as it was asked for", False),
    ],
)

SCORES: Final = Table(
    "scores",
    "evaluation_id",
    [
        described(
            "evaluation_id", pa.string(), "hash", "content hash of model, configuration, seed, task and its data", False
        ),
        described("started", pa.timestamp("us", "UTC"), "time", "when this evaluation began", False),
        *CONFIGURATION,
        described("readout", pa.string(), "name", "as in generations"),
        described("seed", pa.int64(), "id", "seed of the exit and sampling draws", False),
        described("task", pa.string(), "name", "task of the lm-evaluation-harness, or group of tasks", False),
        described("version", pa.string(), "name", "of the task; scores of other versions should not be compared"),
        described("n_shot", pa.int32(), "examples", "solved examples in each prompt"),
        described("metric", pa.string(), "name", "as the harness calls it", False),
        described("filter", pa.string(), "name", "what the harness made of the model's answers before", False),
        described("value", pa.float64(), "of the metric", "over all documents", False),
        described("stderr", pa.float64(), "of the metric", "its standard error; null where the harness gives none"),
        described("n", pa.int64(), "documents", "how many were evaluated"),
        described("higher_is_better", pa.bool_(), "flag", "whether a higher value is better; null where unknown"),
        described(
            "mean_depth",
            pa.float64(),
            "fraction of L",
            "mean of (exit_layer + 1) / L over the evaluation's decided tokens: all but the first of texts and "
            "continuations, and all of continuations if first_token_exits; of a group, over all of its tasks; null if "
            "none was decided",
        ),
        described(
            "first_token_exits",
            pa.bool_(),
            "flag",
            "whether the first token of a continuation may exit; null in results from before this column: it may",
        ),
        described("limit", pa.float64(), "documents", "first documents of each task, or a share of them; null for all"),
        described("chat_template", pa.bool_(), "flag", "whether prompts are in the model's chat template", False),
        described("model", pa.string(), "name", "the model as it was asked for", False),
        described("dtype", pa.string(), "name", "of the weights", False),
        described("versions", pa.string(), "text", "of Python and packages where it was evaluated", False),
    ],
)

STUDY_TABLES: Final = (TIMINGS, REPLAYS, JUDGEMENTS, CHOICES, SCORES)
