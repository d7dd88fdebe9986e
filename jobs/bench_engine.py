"""How fast the engine is, beside the naive reference, transformers' own `generate` and its matrix products alone.

    python jobs/bench.py                                   27 and 108 rows, about five minutes on two CPU cores
    python jobs/bench.py --quick                           27 rows, within a minute
    python jobs/bench.py --rows 27 108 432 --tokens 100    what the README shows
    python jobs/bench.py --model Qwen/Qwen2.5-1.5B --json figures.json

The demo's prompts and grid, with as many seeds as the rows need; no row ends before its last token. Contenders take
turns, and a figure is the median over the rounds.

reference   eexit.reference: one row, two passes; modes as often as the grid has them
generate    transformers, batched and greedy: full depth, nothing read, nothing recorded
sweep       all of it: full-depth pass, student, every exit read with its KL and top tokens, tables; also without the
            top tokens, to show what they cost
floor       the products with weights of the sweep's step halfway, as the step made them, timed alone

Rows that have the same tokens so far share their full-depth pass: `texts` says how many differ halfway.
"""

import json
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from bench_machine import machine, runs_for, start
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from cluster.estimate import aside
from cluster.flags import Parser
from cluster.job import load_job
from eexit.anatomy import Decoder
from eexit.config import UsageError
from eexit.engine import Engine
from eexit.model_generator import ModelGenerator
from eexit.models import load_model_and_tokenizer
from eexit.plan import count_runs
from eexit.reference import generate_one
from eexit.rows import Outcome, Request, Trace

DEMO = Path(__file__).with_name("demo.toml")
REFERENCE_TOKENS = 15
SCALING_TOKENS, LENGTH_TOKENS = 20, 9
SCALING_ROWS = (27, 54, 108, 216)
MIN_TOKENS = 8
LENGTHS = (100, 250, 500, 1000)
PHASES = ("teacher", "readout", "student", "sampling", "records")
Result = TypeVar("Result")
PRODUCTS = {"mm", "addmm", "linear", "_linear_pointwise"}


@dataclass
class Timed:
    """Seconds of each round, for so many tokens, and of single steps where they are known."""

    rows: int
    what: str
    tokens: int
    texts: int | None = None
    rounds: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / median(self.rounds)

    @property
    def step(self) -> float:
        """Milliseconds."""
        return 1e3 * (median(self.steps) if self.steps else median(self.rounds) * self.rows / self.tokens)


class Bench:
    """Two copies of a model: the sweep's own, and one as transformers loads it."""

    def __init__(self, arguments: Sequence[str]):
        job, _ = load_job(arguments, DEMO)
        self.config = job.sweep
        self.generator = ModelGenerator(self.config, job.device)
        self.decoding = self.generator.engine.decoding
        self.plain, _ = load_model_and_tokenizer(self.config, job.device)
        self.plain.generation_config.eos_token_id = None
        self.plain_decoder = Decoder(self.plain)

    def requests(self, n_rows: int) -> list[Request]:
        return list(self.generator.requests(runs_for(self.config, n_rows)).values())[:n_rows]

    def engine(self, n_tokens: int, **changes: Any) -> Engine:
        decoding = replace(self.decoding, max_new_tokens=n_tokens, eos_token_ids=frozenset(), **changes)
        return Engine(self.generator.engine.decoder, decoding)

    def sweep(self, n_rows: int, engine: Engine, timed: Timed) -> None:
        self.generator.engine = engine
        began = self.now()
        results, steps = self.steps(partial(self.generator.generate, runs_for(self.config, n_rows)))
        timed.rounds.append(self.now() - began)
        timed.steps += steps
        runs = results.tokens.to_pandas().groupby(["run_id", "prompt_id"])["token_id"].agg(list)
        halfway = engine.decoding.max_new_tokens // 2
        timed.texts = count_texts((prompt, tokens[:halfway]) for (_, prompt), tokens in runs.items())

    def generate(self, n_rows: int, n_tokens: int, timed: Timed) -> None:
        prompts = [torch.tensor(request.prompt_token_ids) for request in self.requests(n_rows)]
        padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=-1, padding_side="left")
        mask, ids = (padded >= 0).to(self.plain.device), padded.clamp_min(0).to(self.plain.device)
        began = self.now()
        made = self.plain.generate(  # type: ignore[operator]
            ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=n_tokens, pad_token_id=0
        )
        timed.rounds.append(self.now() - began)
        assert made.shape[1] == ids.shape[1] + n_tokens, "a row ended early"

    def reference(self, timed: Timed) -> None:
        """A row of each mode, weighted as the grid has it."""
        decoding, seconds = self.engine(REFERENCE_TOKENS).decoding, 0.0
        requests = self.requests(count_runs(self.config))
        for mode in self.config.modes:
            same = [request for request in requests if request.mode == mode]
            began = self.now()
            generate_one(self.plain, self.plain_decoder, same[len(same) // 2], decoding)
            seconds += (self.now() - began) * len(same) / len(requests)
        timed.rounds.append(seconds)

    def floor(self, calls: Sequence["Product"], timed: Timed) -> None:
        with torch.inference_mode():
            began = self.now()
            for function, args in calls:
                function(*args)
            timed.rounds.append(self.now() - began)

    def products(self, n_rows: int, n_tokens: int) -> list["Product"]:
        """Those of one step halfway, with what they were given."""
        products = Products()
        _during(self.engine(n_tokens), self.requests(n_rows), (n_tokens // 2, n_tokens // 2 + 1), products)
        return products.calls

    def phases(self, requests: Sequence[Request], n_tokens: int, steps: tuple[int, int]) -> dict[str, float]:
        """Milliseconds a step, those of `attention` being part of teacher's and student's."""
        on_gpu = self.plain.device.type == "cuda"
        with_gpu = [ProfilerActivity.CUDA] if on_gpu else []
        profiler = profile(activities=[ProfilerActivity.CPU, *with_gpu])
        _during(self.engine(n_tokens), requests, steps, profiler)
        spent = {event.key: event.device_time_total if on_gpu else event.cpu_time_total
                 for event in profiler.key_averages()}  # fmt: skip
        return {name: spent.get(name, 0.0) / 1e3 / (steps[1] - steps[0]) for name in (*PHASES, "attention")}

    def steps(self, run: Callable[[Callable[[int], None]], Result]) -> tuple[Result, list[float]]:
        """Run something that reports progress; what it returns, and the seconds of each step but the first."""
        moments: list[float] = []
        result = run(lambda _: moments.append(self.now()))
        return result, [after - before for before, after in pairwise(moments)]

    def now(self) -> float:
        if self.plain.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def count_texts(texts: Iterable[tuple[Hashable, Sequence[int]]]) -> int:
    """How many different ones of (prompt, tokens so far)."""
    return len({(prompt, tuple(tokens)) for prompt, tokens in texts})


Product = tuple[Callable, tuple]


class Products(TorchDispatchMode):
    """Notes the products with weights; those of attention and of KL are batched ones, and not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Product] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function.overloadpacket.__name__ in PRODUCTS:
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


class _Enough(Exception):
    """Leaves a generation whose end nobody waits for."""


def _during(
    engine: Engine, requests: Sequence[Request], steps: tuple[int, int], manager: AbstractContextManager
) -> None:
    """Run until the second of these steps, with the manager entered after the first."""
    n_steps = 0

    def progress(_: int) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == steps[0]:
            manager.__enter__()
        if n_steps == steps[1]:
            manager.__exit__(None, None, None)
            raise _Enough

    with suppress(_Enough):
        _decode(engine, requests, progress)


def _decode(engine: Engine, requests: Sequence[Request], progress: Callable[[int], None]) -> dict[int, Outcome]:
    return dict(engine.generate(requests, progress))


def compare(bench: Bench, rows: Sequence[int], n_tokens: int, n_rounds: int) -> list[Timed]:
    """All contenders in turns."""
    contenders: list[tuple[Timed, Callable[[Timed], None]]] = [
        (Timed(1, "reference", REFERENCE_TOKENS), bench.reference)
    ]

    for n in rows:
        n_made = n * n_tokens
        contenders += [
            (Timed(n, "generate", n_made), partial(bench.generate, n, n_tokens)),
            (Timed(n, "sweep", n_made), partial(bench.sweep, n, bench.engine(n_tokens))),
            (Timed(n, "floor", n), partial(bench.floor, bench.products(n, n_tokens))),
        ]
        if n == rows[0]:
            contenders.append(
                (
                    Timed(n, "sweep, no top tokens", n_made),
                    partial(bench.sweep, n, bench.engine(n_tokens, record_top_k=0)),
                )
            )
    for _ in track(range(n_rounds), "rounds", console=Console(stderr=True)):
        for timed, run in contenders:
            run(timed)
    return [timed for timed, _ in contenders]


def scale(
    bench: Bench, batches: Sequence[Sequence[Request]], n_tokens: int, n_rounds: int
) -> tuple[list[float], list[int]]:
    """Milliseconds a step in the second half of so many, for each of these batches, taking turns; texts halfway."""
    engine = bench.engine(n_tokens)
    steps: list[list[float]] = [[] for _ in batches]
    texts: list[int] = [0 for _ in batches]
    for _ in range(n_rounds):
        for index, batch in enumerate(batches):
            outcomes, spent = bench.steps(partial(_decode, engine, batch))
            steps[index] += spent[len(spent) // 2 :]
            traces = ((batch[row].prompt_token_ids, outcome) for row, outcome in outcomes.items())
            texts[index] = count_texts(
                (prompt, trace.token_id_T[: n_tokens // 2].tolist())
                for prompt, trace in traces
                if isinstance(trace, Trace)
            )
    return [1e3 * median(spent) for spent in steps], texts


def lengthened(requests: Sequence[Request], length: int) -> list[Request]:
    """The same with prompts of so many tokens: their own, over and over."""
    return [replace(request, prompt_token_ids=(request.prompt_token_ids * length)[-length:]) for request in requests]


def comparison_table(timings: Sequence[Timed]) -> Table:
    table = _table("rows", "what", "texts", "tokens/s", "ms/step", "× reference", "× generate", "× floor")
    reference = timings[0].rate
    for timed in timings:
        others = {other.what: other for other in timings if other.rows == timed.rows}
        is_sweep = timed.what.startswith("sweep")
        table.add_row(
            str(timed.rows), timed.what, str(timed.texts or ""), f"{timed.rate:.1f}", f"{timed.step:.1f}",
            f"{timed.rate / reference:.1f}" if timed.what != "floor" else "",
            f"{timed.rate / others['generate'].rate:.2f}" if is_sweep else "",
            f"{timed.step / others['floor'].step:.2f}" if is_sweep else "",
        )  # fmt: skip
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in columns:
        table.add_column(column, justify="left" if column in ("what", "phase") else "right")
    return table


def show_phases(console: Console, bench: Bench, rows: Sequence[int], n_tokens: int) -> dict[str, dict[str, float]]:
    middle = n_tokens // 2
    phases = [bench.phases(bench.requests(n), n_tokens, (middle, min(middle + 4, n_tokens - 1))) for n in rows]
    table = _table("phase", *(f"{n} rows, ms/step" for n in rows))
    for name in (*PHASES, "attention"):
        table.add_row(f"of which {name}" if name == "attention" else name, *(f"{phase[name]:.1f}" for phase in phases))
    console.print("\nWhere a step goes, under the profiler", table)
    return dict(zip(map(str, rows), phases, strict=True))


def show_rows(console: Console, bench: Bench, rows: Sequence[int], n_rounds: int) -> dict[str, tuple[int, float]]:
    steps, texts = scale(bench, [bench.requests(n) for n in rows], SCALING_TOKENS, n_rounds)
    table = _table("rows", "texts", "ms/step", "ms/token")
    for n, n_texts, step in zip(rows, texts, steps, strict=True):
        table.add_row(str(n), str(n_texts), f"{step:.1f}", f"{step / n:.2f}")
    console.print(f"\nAs rows grow, within {SCALING_TOKENS} tokens", table)
    return dict(zip(map(str, rows), zip(texts, steps, strict=True), strict=True))


def show_lengths(
    console: Console, bench: Bench, lengths: Sequence[int], n_rows: int, n_rounds: int
) -> dict[str, tuple[int, float, float]]:
    batches = [lengthened(bench.requests(n_rows), length) for length in lengths]
    steps, texts = scale(bench, batches, LENGTH_TOKENS, n_rounds)
    profiled = [bench.phases(batch, LENGTH_TOKENS, (4, LENGTH_TOKENS - 1)) for batch in batches]
    shares = [phases["attention"] / sum(phases[name] for name in PHASES) for phases in profiled]
    attention = [share * step for share, step in zip(shares, steps, strict=True)]
    table = _table("tokens before", "texts", "ms/step", "attention", "the rest")
    for length, n_texts, step, of_it in zip(lengths, texts, steps, attention, strict=True):
        table.add_row(f"{length:,}", str(n_texts), f"{step:.1f}", f"{of_it:.1f}", f"{step - of_it:.1f}")
    console.print(f"\nAs texts grow, {n_rows} rows", table)
    return dict(zip(map(str, lengths), zip(texts, steps, attention, strict=True), strict=True))


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main(arguments: Sequence[str]) -> int:
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, nargs="+", metavar="N", help="default: 27 108")
    parser.add_argument("--tokens", type=positive, help="per row (default: 40)")
    parser.add_argument("--rounds", type=positive, help="default: 5")
    parser.add_argument("--quick", action="store_true", help="27 rows, 12 tokens, 2 rounds, less of the rest")
    parser.add_argument("--json", metavar="FILE", help="every figure, the machine and the versions")
    parser.epilog = "Any flag of sweep.py that says what is swept will do as well: --model, --dtype, --exit-every, …"
    flags, of_sweep = parser.parse_known_args(arguments)
    rows = flags.rows or ([27] if flags.quick else [27, 108])
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
    room = (bench.plain_decoder.context or sys.maxsize) - LENGTH_TOKENS
    n_points = 2 if flags.quick else 4
    figures: dict[str, Any] = {
        "machine": about,
        "comparison": [{**vars(timed), "rate": timed.rate, "step": timed.step} for timed in timings],
        "phases": show_phases(console, bench, rows, n_tokens),
        "rows": show_rows(console, bench, SCALING_ROWS[:n_points], max(1, n_rounds // 2)),
        "length": show_lengths(
            console, bench, [n for n in LENGTHS[:n_points] if n <= room], rows[0], max(1, n_rounds // 2)
        ),
        "start": aside(start, of_sweep, DEMO, rows[-1], n_tokens, time.time()),
    }
    console.print(f"\n{', '.join(f'{name} {value:.1f}' for name, value in figures['start'].items())}", highlight=False)
    if flags.json:
        Path(flags.json).write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
