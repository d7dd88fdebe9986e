"""The engine's speed beside that of transformers' `generate`: milliseconds of a step by number of sequences.

    python jobs/bench                                1, 8, 27 and 108 rows, about ten minutes on two CPU cores
    python jobs/bench --quick                        1 and 8 rows, within a minute
    python jobs/bench --rows 1 32 --tokens 100 --dtype float32
    python jobs/bench --model Qwen/Qwen2.5-1.5B --json figures.json

EOS does not end rows, and all decode greedily. The first two tokens of a row are not timed. Contenders take turns, and
a figure is the median over the steps of all rounds. × generate: time as a multiple of that of `generate` in the run.

generate                            transformers, batched: full depth, nothing read, nothing recorded
normal                              full depth on the engine; no predictions for finished texts, as in the next two
frozen_residual/confidence/0.9      exits that alter the KV cache
unfrozen/confidence/0.9             exits with deferred tokens
oracles                             the demo's grid beside its full-depth pass; exitable layers are read and recorded
observation                         full-depth predictions for the frozen rows' finished texts, as a share of each step

Rows have the questions of jobs/sweeps/prompts, and oracles the demo's prompts and grid, with as many seeds as they
need. Fewer rows than that has are drawn from it evenly, from the last one on.
"""

import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import count, cycle, islice, pairwise, product
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster.console.command import command
from cluster.console.flags import whole
from cluster.console.flags_from_config import load_job
from cluster.console.parser import Parser
from eexit.cpu import kernels
from eexit.decode.engine import Engine
from eexit.decode.requests import Request, RequestFailure
from eexit.errors import UsageError
from eexit.method.rules import ORACLES
from eexit.model.quantization import precision_of
from eexit.output.atomic_files import write_atomic
from eexit.plan.configuration import GENERATE, EarlyExit, NoExit
from eexit.plan.prompts import read_prompts
from eexit.plan.runs import configurations
from eexit.plan.sweep_config import Observe
from eexit.studies.timing.decode_timer import UNTIMED_TOKENS, describe_machine, now, usable_prompts
from eexit.studies.timing.plain_generate import generate_greedily, plain_model
from eexit.sweeps.generator import ModelGenerator

SWEEPS: Final = Path(__file__).parents[1] / "sweeps"
LEAST_TOKENS: Final = UNTIMED_TOKENS + 1
FROZEN, DEFERRED = (EarlyExit(mode, "confidence", 0.9) for mode in ("frozen_residual", "unfrozen"))
OBSERVATION: Final = "observation"


@dataclass
class StepTiming:
    """Seconds of single decode steps with `rows` slots, over all rounds."""

    rows: int
    what: str
    steps: list[float] = field(default_factory=list)

    @property
    def step(self) -> float:
        """Median step, in milliseconds."""
        return 1e3 * median(self.steps)


class Bench:
    """Benchmark of the demo's model, in the engine and in transformers, with the prompts for both."""

    def __init__(self, arguments: Sequence[str], n_tokens: int):
        job, _ = load_job(arguments, SWEEPS / "demo.toml")
        self.config, self.n_tokens = job.config, n_tokens
        others = [name for name in self.config.rules if name not in ORACLES]
        if others:
            raise UsageError(
                f"rule {others[0]} is no oracle: --rules takes kl and agree here, and an online rule is timed anyway"
            )
        generator = ModelGenerator(self.config, job.device)
        self.plain, self.engine = plain_model(generator, job.device), generator.engine
        self.grid = [*product(usable_prompts(generator, n_tokens).values(), configurations(self.config))]
        generator.config = self.config.model_copy(
            update={"prompts": read_prompts(SWEEPS / "prompts" / "questions.jsonl")}
        )
        self.questions = list(usable_prompts(generator, n_tokens).values())

    def round(self, n_rows: int) -> dict[str, list[float]]:
        """Time one round with `n_rows` slots: decode with each alternative in turn; return their seconds per step."""
        prompts = [*islice(cycle(self.questions), n_rows)]
        times = {GENERATE: self._generate(prompts)}
        for configuration in (NoExit(), FROZEN, DEFERRED):
            rows = [Request(prompt, configuration, 0) for prompt in prompts]
            times[configuration.key], _ = self._decode(rows, "none")
        times["oracles"], _ = self._decode(self._oracles(n_rows), "all")
        _, observed = self._decode([Request(prompt, FROZEN, 0) for prompt in prompts], "all")
        return {**times, OBSERVATION: [observed / (self.n_tokens - 1)]}

    def _oracles(self, n_rows: int) -> list[Request]:
        """Return `n_rows` requests of oracles: prompts and configurations of the benchmark's grid.

        They are evenly spaced in a larger grid; a smaller grid is repeated with further seeds.
        """
        if n_rows < len(self.grid):
            taken = [self.grid[-1 - at * len(self.grid) // n_rows] for at in range(n_rows)]
            return [Request(prompt, configuration, 0) for prompt, configuration in taken]
        rows = (Request(*row, seed) for seed in count() for row in self.grid)
        return [*islice(rows, n_rows)]

    def _generate(self, prompts: Sequence[tuple[int, ...]]) -> list[float]:
        steps, tell = self._watch()
        made = generate_greedily(self.plain, prompts, self.n_tokens, tell)
        assert made.shape[1] == self.n_tokens, "a sequence ended early"
        return seconds_between(steps)

    def _decode(self, requests: Sequence[Request], record_full_depth: Observe) -> tuple[list[float], float]:
        """Return the seconds of each step, and the seconds from the last step to the last output."""
        decoding = replace(
            self.engine.decoding, max_new_tokens=self.n_tokens, eos_token_ids=frozenset(),
            record_full_depth=record_full_depth, max_rows=len(requests),
        )  # fmt: skip
        engine, (steps, tell) = Engine(self.engine.decoder, decoding, self.engine.student), self._watch()
        for index, outcome in engine.generate(requests, tell):
            if isinstance(outcome, RequestFailure):
                raise UsageError(f"{requests[index].configuration.key} can't be timed: {outcome.error}")
        if len(steps) != self.n_tokens - 1:
            raise UsageError(f"{len(requests)} sequences don't fit into memory at once: lower --rows")
        return seconds_between(steps), now(self.engine.decoder.device) - steps[-1]

    def _watch(self) -> tuple[list[float], Callable[[int], None]]:
        """Return a list for the times at which steps end, and the callback that fills it."""
        moments: list[float] = []
        return moments, lambda n_tokens: moments.append(now(self.plain.device))

    def about(self) -> dict[str, str]:
        """Return the hardware, the model, its dtype and kernels, and the packages' versions."""
        no_logits = torch.empty(0, 1, 0, dtype=self.plain.dtype, device=self.plain.device)
        return {
            "machine": describe_machine(self.plain.device),
            "model": self.config.model,
            "dtype": precision_of(self.plain),
            "kernels": "torch's" if kernels.divergence(no_logits, 0) is None else "compiled",
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        }


def seconds_between(moments: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(moments)]


def compare(bench: Bench, rows: Sequence[int], n_rounds: int) -> list[StepTiming]:
    """Time the engine's variants and transformers' `generate` in turns, for each number of slots; return step times."""
    timings: dict[tuple[int, str], StepTiming] = {}
    for _ in track(range(n_rounds), "rounds", console=Console(stderr=True)):
        for n in rows:
            for what, steps in bench.round(n).items():
                timings.setdefault((n, what), StepTiming(n, what)).steps += steps
    return list(timings.values())


def figures_of(timings: Sequence[StepTiming]) -> list[dict[str, Any]]:
    """Return a record for each timed variant and number of slots."""
    own = {timed.rows: timed.step for timed in timings if timed.what == GENERATE}
    return [{**vars(timed), "ms": timed.step, "of_generate": timed.step / own[timed.rows]} for timed in timings]


def speed_table(figures: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in ("rows", "what", "ms/step", "× generate"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for each in figures:
        table.add_row(str(each["rows"]), each["what"], f"{each['ms']:.1f}", f"{each['of_generate']:.2f}")
    return table


@command()
def main(arguments: Sequence[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--rows", type=whole, nargs="+", metavar="N", help="default: 1 8 27 108")
    parser.add_argument("--tokens", type=whole, help="per sequence (default: 40)")
    parser.add_argument("--rounds", type=whole, help="default: 5")
    parser.add_argument("--quick", action="store_true", help="1 and 8 sequences, 12 tokens, 2 rounds")
    parser.add_argument("--json", metavar="FILE", help="write all figures, the machine and the versions as JSON")
    parser.epilog = "Flags of eexit sweep that define the sweep can be given too: --model, --dtype, --exit-every, …"
    flags, of_sweep = parser.parse_known_args(arguments)
    rows = flags.rows or ([1, 8] if flags.quick else [1, 8, 27, 108])
    n_tokens, n_rounds = flags.tokens or (12 if flags.quick else 40), flags.rounds or (2 if flags.quick else 5)
    if n_tokens < LEAST_TOKENS:
        raise UsageError(f"--tokens must be at least {LEAST_TOKENS}, since the first two are not timed, got {n_tokens}")
    if flags.json and not Path(flags.json).parent.is_dir():
        raise UsageError(f"--json {flags.json} can't be written: there is no such folder")
    console = Console(width=None if sys.stdout.isatty() else 120)
    bench = Bench(of_sweep, n_tokens)
    about = bench.about()
    console.print(" · ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    figures = figures_of(compare(bench, rows, n_rounds))
    console.print(f"\n{n_tokens} tokens per sequence, medians of {n_rounds} rounds", speed_table(figures))
    if flags.json:
        write_atomic(Path(flags.json), json.dumps({"machine": about, "comparison": figures}, indent=1))
    return 0
