"""What the engine's bench times: both loops, the naive reference, transformers' `generate`, and matrix products."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cluster.console.sweep_flags import load_job
from eexit.decode.batch import Tell
from eexit.decode.engine import Engine
from eexit.decode.requests import Outcome, Request
from eexit.errors import UsageError
from eexit.generator import ModelGenerator
from eexit.method.rules import ORACLES
from eexit.model.layers import Decoder
from eexit.plan.config import Observe, SweepConfig
from eexit.plan.configuration import NORMAL, Normal
from eexit.plan.prompts import read_prompts
from eexit.plan.runs import Run, configurations, count_runs, plan_runs
from eexit.reference.generation import generate_one
from eexit.results.shard_tables import OnProgress, Results
from eexit.studies.timing.contenders import now
from eexit.studies.timing.plain_generate import generate_greedily, plain_model

SWEEPS = Path(__file__).parents[1] / "sweeps"
OBSERVE: tuple[Observe, ...] = ("none", "final", "all")
REFERENCE_TOKENS = 15
FLOOR_STEPS = 4
PRODUCTS = {"mm", "addmm", "linear", "_linear_pointwise"}

Result = TypeVar("Result")
Product = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass
class Timed:
    """Seconds of each round of `tokens` tokens, and of single steps if they are known."""

    rows: int
    what: str
    tokens: int
    prefixes: int | None = None  # unique ones halfway: a prompt and the tokens so far
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


class WatchedEngine(Engine):
    """Adds up the seconds between the steps that end rows and their outcomes: in the online loop, observation."""

    observed = 0.0

    def generate(
        self,
        requests: Sequence[Request],
        progress: Tell = lambda n_tokens: None,
        observed: Tell = lambda n_tokens: None,
    ) -> Iterator[tuple[int, Outcome]]:
        latest = now(self.decoder.device)

        def step(n_tokens: int) -> None:
            nonlocal latest
            progress(n_tokens)
            latest = now(self.decoder.device)

        for ended in super().generate(requests, step, observed):
            self.observed += now(self.decoder.device) - latest
            yield ended
            latest = now(self.decoder.device)


class Bench:
    """Two copies of a model: the sweep's own, with packed weights, and one as transformers loads it."""

    def __init__(self, arguments: Sequence[str]):
        job, _ = load_job(arguments, SWEEPS / "demo.toml")
        self.config = job.config
        others = [name for name in self.config.rules if name not in ORACLES]
        if others:
            raise UsageError(
                f"rule {others[0]} is no oracle: --rules takes kl and agree here, and online rules are timed anyway"
            )
        self.generator = ModelGenerator(self.config, job.device)
        self.decoding = self.generator.engine.decoding
        self.plain = plain_model(self.generator, job.device)
        self.plain_decoder = Decoder(self.plain)
        layers = self.decoding.exitable_layers
        fixed = (float(layers[len(layers) // 2]),)  # four rules, as many as the demo has KL factors
        online = {
            "prompts": read_prompts(SWEEPS / "prompts" / "questions.jsonl"),  # seeds would change no row
            "kl_factors": (),
            "rules": {"fixed": fixed, "entropy": (1.0,), "similarity": (0.95,), "confidence": (0.9,)},
        }
        self.online_config = self.config.model_copy(update=online)

    def runs(self, config: SweepConfig, n_rows: int) -> list[Run]:
        """The first runs of a grid, with as many seeds as that takes; of a grid with more, the last ones.

        Of few, none is `normal`, which is generated beside them if the grid has it.
        """
        if n_rows < count_runs(config) // len(config.prompts):
            config = config.model_copy(update={"modes": tuple(mode for mode in config.modes if mode != NORMAL)})
        self.generator.config = config
        seeds = tuple(range(-(-n_rows // count_runs(config))))
        first = max(0, len(configurations(config)) - n_rows)
        return list(plan_runs(config.model_copy(update={"seeds": seeds})))[first : first + n_rows]

    def requests(self, config: SweepConfig, n_rows: int) -> list[Request]:
        return list(self.generator.requests(self.runs(config, n_rows)).values())[:n_rows]

    def engine(self, n_tokens: int, observe: Observe = "all") -> WatchedEngine:
        decoding = replace(self.decoding, max_new_tokens=n_tokens, eos_token_ids=frozenset(), observe=observe)
        return WatchedEngine(self.generator.engine.decoder, decoding, self.generator.engine.student)

    def sweep(self, n_rows: int, n_tokens: int, timed: Timed) -> None:
        """The grid of oracles: everything, with the tables."""
        began = self.now()
        results, steps, _ = self._sweep(self.config, n_rows, n_tokens)
        timed.rounds.append(self.now() - began)
        timed.steps += steps
        runs = results.tokens.to_pandas().groupby(["run_id", "prompt_id"])["token_id"].agg(list)
        timed.prefixes = len({(prompt, tuple(tokens[: n_tokens // 2])) for (_, prompt), tokens in runs.items()})

    def online(self, n_rows: int, n_tokens: int, observation: Timed, timed: Timed) -> None:
        """The grid of online rules, with the tables; its observation is timed apart."""
        began = self.now()
        _, steps, observed = self._sweep(self.online_config, n_rows, n_tokens)
        timed.rounds.append(self.now() - began - observed)
        timed.steps += steps
        observation.rounds.append(observed)

    def texts(self, n_rows: int, n_tokens: int, observe: Observe, timed: Timed) -> None:
        """The prompts of as many runs of the grid, at full depth."""
        requests = [replace(request, configuration=Normal()) for request in self.requests(self.config, n_rows)]
        began = self.now()
        engine = self.engine(n_tokens, observe)
        _, steps = self.steps(lambda progress: list(engine.generate(requests, progress)))
        timed.rounds.append(self.now() - began)
        timed.steps += steps

    def _sweep(self, config: SweepConfig, n_rows: int, n_tokens: int) -> tuple[Results, list[float], float]:
        engine = self.generator.engine = self.engine(n_tokens)
        runs = self.runs(config.model_copy(update={"max_new_tokens": n_tokens}), n_rows)
        results, steps = self.steps(partial(self.generator.generate, runs))
        assert results.tokens.num_rows == n_rows * n_tokens, "a row has another length"
        return results, steps, engine.observed

    def generate(self, n_rows: int, n_tokens: int, timed: Timed) -> None:
        prompts = [request.prompt_token_ids for request in self.requests(self.config, n_rows)]
        began = self.now()
        made = generate_greedily(self.plain, prompts, n_tokens)
        timed.rounds.append(self.now() - began)
        assert made.shape[1] == n_tokens, "a row ended early"

    def reference(self, timed: Timed) -> None:
        """One row of each mode, weighted by the number of its configurations in the grid."""
        decoding, seconds = self.engine(REFERENCE_TOKENS).decoding, 0.0
        requests = self.requests(self.config, count_runs(self.config))
        for mode in self.config.modes:
            same = [request for request in requests if request.configuration.mode == mode]
            began = self.now()
            generate_one(self.plain, self.plain_decoder, same[len(same) // 2], decoding)
            seconds += (self.now() - began) * len(same) / len(requests)
        timed.rounds.append(seconds)

    def floor(self, calls: Sequence[Product], timed: Timed) -> None:
        with torch.inference_mode():
            began = self.now()
            for function, args in calls:
                function(*args)
            timed.rounds.append(self.now() - began)

    def products(self, config: SweepConfig, n_rows: int, n_tokens: int) -> list[Product]:
        """The products with weights of FLOOR_STEPS steps, from halfway on, with their arguments."""
        products, recording, first, n_steps = Products(), ExitStack(), n_tokens // 2, 0

        def progress(_: int) -> None:
            nonlocal n_steps
            n_steps += 1
            if n_steps == first:
                recording.enter_context(products)
            if n_steps == first + FLOOR_STEPS:
                recording.close()
                raise _EnoughError

        with suppress(_EnoughError):
            list(self.engine(n_tokens).generate(self.requests(config, n_rows), progress))
        return products.calls

    def steps(self, run: Callable[[OnProgress], Result]) -> tuple[Result, list[float]]:
        """Run something that reports progress; what it returns, and the seconds of each step but the first."""
        moments: list[float] = []

        def step(tokens: int, runs: int = 0, observed: int = 0) -> None:
            if not runs and not observed:  # these are no steps
                moments.append(self.now())

        result = run(step)
        return result, [after - before for before, after in pairwise(moments)]

    def now(self) -> float:
        return now(self.plain.device)


class Products(TorchDispatchMode):
    """Records the products with weights; attention and KL use batched products, which are left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without annotations
        self.calls: list[Product] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function.overloadpacket.__name__ in PRODUCTS:
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


class _EnoughError(Exception):
    """Raised to leave a generation before its end."""
