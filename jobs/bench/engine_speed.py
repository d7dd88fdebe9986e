"""The engine's speed, compared with the naive reference, transformers' `generate`, and its matrix products alone.

    python jobs/bench                                1, 27 and 108 rows, about five minutes on two CPU cores
    python jobs/bench --quick                        1 and 27 rows, within a minute
    python jobs/bench --rows 1 27 108 --tokens 100
    python jobs/bench --model Qwen/Qwen2.5-1.5B --json figures.json

It uses the demo's prompts and grid, with as many seeds as the rows need; online rules, whose greedy rows are the same
for each seed, get as many of the questions. EOS does not end rows. One row is of the last configuration. Contenders
take turns, and a figure is the median over the rounds.

reference   eexit.reference.generation: one row, two passes; modes are weighted as in the grid
generate    transformers, batched and greedy: full depth, nothing read, nothing recorded
oracle      the demo's grid, everything: full-depth pass, student, reading every exitable layer with its KL and top
            tokens, and the tables
online      the same modes with four online rules, and the tables: only those layers that exits and states need. The
            observation of finished texts by the full-depth model is left out, and has a table of its own
texts       mode normal alone, without the tables, with each `--observe`: full depth is asked nothing of the texts, at
            its final layer alone, or at all exitable layers
floor       the matrix products with weights of some steps of either, from halfway on, timed alone

Rows of oracles with the same tokens so far share their full-depth pass: `prefixes` says how many unique ones there are
halfway.
"""

import json
import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from contenders import FLOOR_STEPS, OBSERVE, REFERENCE_TOKENS, Bench, Timed
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PreTrainedModel

from cluster.console.flags import whole
from cluster.console.parser import Parser
from eexit.cpu import kernels
from eexit.errors import UsageError
from eexit.model.quantization import precision_of
from eexit.output.whole_files import write_whole
from eexit.plan.config import SweepConfig
from eexit.studies.timing.contenders import describe_machine

MIN_TOKENS = 10


def compare(bench: Bench, rows: Sequence[int], n_tokens: int, n_rounds: int) -> list[Timed]:
    """Time all contenders, taking turns."""
    contenders: list[tuple[Timed, Callable[[Timed], None]]] = [
        (Timed(1, "reference", REFERENCE_TOKENS), bench.reference)
    ]

    for n in rows:
        n_made, observation = n * n_tokens, Timed(n, "observation", n * (n_tokens - 1))
        contenders += [
            (Timed(n, "generate", n_made), partial(bench.generate, n, n_tokens)),
            (Timed(n, "oracle", n_made), partial(bench.sweep, n, n_tokens)),
            (Timed(n, "online", n_made), partial(bench.online, n, n_tokens, observation)),
            (observation, lambda timed: None),  # online rows have it timed
            *((Timed(n, f"texts, {each}", n_made), partial(bench.texts, n, n_tokens, each)) for each in OBSERVE),
        ]
        for what, config in (("oracle", bench.config), ("online", bench.online_config)):
            products = bench.products(config, n, n_tokens)
            contenders.append((Timed(n, f"floor, {what}", n * FLOOR_STEPS), partial(bench.floor, products)))
    for _ in track(range(n_rounds), "rounds", console=Console(stderr=True)):
        for timed, run in contenders:
            run(timed)
    return [timed for timed, _ in contenders]


def comparison_table(timings: Sequence[Timed]) -> Table:
    table = _table("rows", "what", "prefixes", "tokens/s", "ms/step", "× reference", "× generate", "× floor")
    reference = timings[0].rate
    for timed in timings:
        by_what = {each.what: each for each in timings if each.rows == timed.rows}
        floor = by_what.get(f"floor, {timed.what}")
        if timed.what != "observation":
            table.add_row(
                str(timed.rows), timed.what, str(timed.prefixes or ""), f"{timed.rate:.1f}", f"{timed.step:.1f}",
                "" if timed.what.startswith("floor") else f"{timed.rate / reference:.1f}",
                f"{timed.rate / by_what['generate'].rate:.2f}" if floor or timed.what.startswith("texts") else "",
                f"{timed.step / floor.step:.2f}" if floor else "",
            )  # fmt: skip
    return table


def observation_table(timings: Sequence[Timed]) -> Table:
    table = _table("rows", "ms/token observed", "share of the time")
    seconds = {(timed.rows, timed.what): median(timed.rounds) for timed in timings}
    for timed in timings:
        if timed.what == "observation":
            observed, online = seconds[timed.rows, "observation"], seconds[timed.rows, "online"]
            table.add_row(str(timed.rows), f"{1e3 / timed.rate:.2f}", f"{observed / (observed + online):.0%}")
    return table


def machine(model: PreTrainedModel, config: SweepConfig) -> dict[str, str]:
    """The hardware, the model, its dtype and kernels, and the versions of packages."""
    no_logits = torch.empty(0, 1, 0, dtype=model.dtype, device=model.device)
    return {
        "machine": describe_machine(model.device),
        "model": config.model,
        "dtype": precision_of(model),
        "kernels": "torch's" if kernels.divergence(no_logits, 0) is None else "compiled",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
    }


def _table(*columns: str) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in columns:
        table.add_column(column, justify="left" if column == "what" else "right")
    return table


def main(arguments: Sequence[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--rows", type=whole, nargs="+", metavar="N", help="default: 1 27 108")
    parser.add_argument("--tokens", type=whole, help="per row (default: 40)")
    parser.add_argument("--rounds", type=whole, help="default: 5")
    parser.add_argument("--quick", action="store_true", help="1 and 27 rows, 12 tokens, 2 rounds")
    parser.add_argument("--json", metavar="FILE", help="write all figures, the machine and the versions as JSON")
    parser.epilog = "Flags of jobs/sweep.py that define the sweep can be given too: --model, --dtype, --exit-every, …"
    flags, of_sweep = parser.parse_known_args(arguments)
    rows = flags.rows or ([1, 27] if flags.quick else [1, 27, 108])
    n_tokens, n_rounds = flags.tokens or (12 if flags.quick else 40), flags.rounds or (2 if flags.quick else 5)
    if n_tokens < MIN_TOKENS:
        raise UsageError(f"--tokens must be at least {MIN_TOKENS}, got {n_tokens}: steps are looked at halfway")
    if flags.json and not Path(flags.json).parent.is_dir():
        raise UsageError(f"--json {flags.json} can't be written: there is no such folder")
    console = Console(width=None if sys.stdout.isatty() else 120)
    bench = Bench(of_sweep)
    about = machine(bench.plain, bench.config)
    console.print(" · ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    timings = compare(bench, rows, n_tokens, n_rounds)
    console.print(f"\n{n_tokens} tokens a row, medians of {n_rounds} rounds", comparison_table(timings))
    console.print("\nObservation of the online rows' finished texts", observation_table(timings))
    figures: dict[str, Any] = {
        "machine": about,
        "comparison": [{**vars(timed), "rate": timed.rate, "step": timed.step} for timed in timings],
    }
    if flags.json:
        write_whole(Path(flags.json), json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
