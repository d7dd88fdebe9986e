"""The small table that ends a sweep: one line per configuration."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.table import Table

from cluster.landing import read_generations
from cluster.store import Store
from eexit.plan import Configuration
from eexit.schema import ERROR, OK

COLUMNS = ["mode", "kl_factor", "status", "exit_rate", "mean_depth", "tokens_until_difference", "lcs_share"]
CAPTION = (
    "Means over runs. exit rate: tokens read before the final layer; mean depth: layers up to the exit, of all; "
    "alike for: tokens before the first that differs from the prompt's normal run; shared: longest common "
    "subsequence with it, over the longer of the two."
)


def summarise(store: Store, configurations: Sequence[Configuration]) -> Table:
    """Means over the runs of each configuration; agreement is with the prompt's normal run."""
    generations = read_generations(store, COLUMNS)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=CAPTION, caption_justify="left")
    table.add_column("mode", no_wrap=True)
    for heading in ("k", "runs", "errors", "exit rate", "mean depth", "alike for", "shared"):
        table.add_column(heading, justify="right", no_wrap=True)
    for configuration in configurations:
        table.add_row(*_line(configuration, generations))
    return table


def _line(configuration: Configuration, generations: pa.Table) -> list[str]:
    mode, kl_factor = configuration.mode, configuration.kl_factor
    same_factor = pc.field("kl_factor").is_null() if kl_factor is None else pc.field("kl_factor") == kl_factor
    runs = generations.filter((pc.field("mode") == mode.value) & same_factor)
    errors = runs.filter(pc.field("status") == ERROR).num_rows
    done = runs.filter(pc.field("status") == OK)
    return [
        mode.value,
        "" if kl_factor is None else f"{kl_factor:g}",
        f"{runs.num_rows:,}",
        f"{errors:,}",
        _mean(done["exit_rate"], "{:.1%}"),
        _mean(done["mean_depth"], "{:.1%}"),
        _mean(done["tokens_until_difference"], "{:.1f}"),
        _mean(done["lcs_share"], "{:.1%}"),
    ]


def _mean(values: pa.ChunkedArray, form: str) -> str:
    mean = pc.mean(values).as_py()
    return "–" if mean is None else form.format(mean)
