"""The table that is printed at the end of a sweep: one line per configuration."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.table import Table

from cluster.figures import mean_of, outcomes
from cluster.landing import read_columns
from cluster.store import Store
from eexit.configuration import Configuration
from eexit.schema import ERROR

COLUMNS = [
    *("configuration", "status", "n_tokens", "mean_depth", "disagreement"),
    *("longest_loop", "perplexity", "tokens_until_difference", "correct"),
]
# The report's words, broken so that the table fits in 80 columns.
HEADINGS = (
    "layers\nskipped",
    "dis-\nagree-\nment",
    "one\nloop",
    "per-\nplex-\nity",
    "same\nas\nnormal\nuntil",
)
CAPTION = (
    "Means over runs, geometric for perplexity. Layers skipped: 1 − mean depth, the layers that the exits do not "
    "need, which is no saving. Disagreement: decided tokens that full depth, given the same text, would not have "
    "said. One loop: the share of the text in its longest loop, which full depth, given the loop, agrees with. Same "
    "as normal until: tokens before the first that differs from the prompt's normal run."
)
# Of a sweep whose prompts bring answers.
ANSWERS_HEADING = "cor-\nrect"
ANSWERS_CAPTION = " Correct: runs whose answer is right, of those whose prompt says what is."


def closing_table(store: Store, configurations: Sequence[Configuration]) -> Table:
    """Means over the runs of each configuration; agreement is with the prompt's normal run."""
    generations = read_columns(store, COLUMNS)
    has_answers = generations["correct"].null_count < len(generations)
    has_errors = bool(pc.any(pc.equal(generations["status"], ERROR)).as_py())
    caption = CAPTION + ANSWERS_CAPTION * has_answers
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, caption=caption, caption_justify="left")
    table.add_column("configuration", overflow="fold")  # long keys are broken, never numbers
    for heading in ["runs", *["failed"] * has_errors, *HEADINGS, *[ANSWERS_HEADING] * has_answers]:
        table.add_column(heading, justify="right", no_wrap=True)
    for configuration in configurations:
        table.add_row(*_line(configuration, generations, has_errors, has_answers))
    return table


def _line(configuration: Configuration, generations: pa.Table, has_errors: bool, has_answers: bool) -> list[str]:
    n_runs, n_errors, done = outcomes(configuration, generations)
    depth = mean_of("mean_depth", done)
    loop_share = pc.divide(done["longest_loop"], pc.cast(done["n_tokens"], pa.float64()))
    return [
        configuration.key,
        f"{n_runs:,}",
        *([f"{n_errors:,}"] if has_errors else []),
        _said(None if depth is None else 1 - depth, "{:.1%}"),
        _said(mean_of("disagreement", done), "{:.1%}"),
        _said(pc.mean(loop_share).as_py(), "{:.1%}"),
        _said(mean_of("perplexity", done), "{:.4g}"),
        _said(mean_of("tokens_until_difference", done), "{:.1f}"),
        *([_said(mean_of("correct", done), "{:.1%}")] if has_answers else []),
    ]


def _said(mean: float | None, form: str) -> str:
    return "–" if mean is None else form.format(mean)
