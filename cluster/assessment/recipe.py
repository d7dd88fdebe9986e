"""The ten commands of an assessment, in order: what `jobs/assess.py --dry-run` prints, and what it runs.

texts      texts of the model's own, sampled, to learn from
linear     a linear readout of each exitable layer
state      KV maps
pilot      an oracle, and few thresholds of a rule, in the exact KV cache and in the mode that is deployed
replay     rules and thresholds on the pilot's texts, which settle what is run
run        settings around the bound: cells C and D, one of which may be certified
oracles    the oracle on the same prompts: cells A and B
choice     which of the settings may be used
times      it beside full depth, drafts and transformers' own `generate`, and how long steps take
again      full depth, `generate`, it and the fastest alternative: short calls on other prompts
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cluster.assessment.prompt_splits import PILOT, RUN, TRAINING, PromptSplits
from cluster.assessment.split_sizes import TOKENS_OF_A_TEXT
from eexit.method.rules import format_parameter
from eexit.method.screen_size import ScreenSize
from eexit.plan.configuration import EVERY, GENERATE, LOOKUP, NORMAL, EarlyExit, parse_exit_set
from eexit.studies.assessment.verdict import Bound
from eexit.studies.replay.shortlist import AIMS, EXACT, ORACLE

TEXTS, LINEAR, STATE, REPLAY, ORACLES, CHOICE, TIMES, AGAIN = (
    "texts", "linear", "state", "replay", "oracles", "choice", "times", "again",
)  # fmt: skip
DEPLOYED: Final = "mapped_residual"
Rules = Mapping[str, tuple[float, ...]]
IN_THE_PILOT: Final[Rules] = {"confidence": (0.7, 0.9)}  # which are replayed too
REPLAYED: Final[Rules] = {  # down to where most tokens leave at once, and the bound is lost
    "confidence": (0.3, 0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 0.97, 0.99),
    "entropy": (3.0, 1.5, 0.7, 0.35, 0.25, 0.1, 0.05),
    "similarity": (0.95, 0.97, 0.985, 0.99),
}
LAST_ALONE: Final = 3  # so many late layers are an exit set each: looking at fewer layers costs less
# Coarse, since a rule needs no exact likeliest token: of the default model, nearly as many tokens leave at equal
# disagreement as by one of 96 dimensions and 1,024 tokens, which costs nearly three times as much.
SCREEN: Final = ScreenSize(32, 256)
TEXT_TOKENS: Final = 96  # of a text to learn from, at most
DRAFT_TOKENS, N_DRAFTS = 4, 2
SETTINGS_OF_RUN, ORACLES_OF_RUN = 2 + len(AIMS), 3  # at most
ROUNDS, PROMPTS_OF_A_ROUND = 8, 4  # of the call that finds the fastest, and how long steps take
N_CALLS, ROUNDS_OF_A_CALL = 24, 2  # further ones, over which times have their intervals
PARTS_OF_A_TRAINING: Final = {LINEAR: 3, STATE: 6}  # times as long as its texts took


@dataclass(frozen=True)
class RecipeStep:
    """A command of `jobs/`, the folder that it leaves its results in, and about how much it does: tokens at full depth,
    with all that is computed beside them, and how often actors load the model.
    """

    name: str
    script: str
    arguments: Sequence[str]
    folder: str
    tokens: float
    n_loads: int = 1

    @property
    def line(self) -> str:
        """As it is called by hand."""
        return f"python jobs/{self.script}.py {shlex.join(self.arguments)}"


@dataclass(frozen=True)
class Recipe:
    """What all commands depend on. `common` are flags of all sweeps, `reading` those of sweeps whose texts are judged,
    and `execution` those of all commands that load the model.
    """

    out: str
    parts: PromptSplits
    layers: Sequence[int]
    common: Sequence[str]
    reading: Sequence[str]
    execution: Sequence[str]
    max_new_tokens: int
    screens: bool  # whether a read of the head costs more than a layer
    batch: int = 1

    def at(self, name: str) -> str:
        return f"{self.out.rstrip('/')}/{name}"

    @property
    def exit_sets(self) -> Sequence[str]:
        """The last layers, each alone, and all."""
        alone = [str(layer) for layer in reversed(self.layers[-LAST_ALONE:])] if len(self.layers) > 1 else []
        return (*alone, EVERY)

    @property
    def replayed(self) -> Sequence[str]:
        """The keys of all settings that are replayed."""
        return [
            EarlyExit(EXACT, rule, parameter, parse_exit_set(exit_set)).key
            for rule, parameters in REPLAYED.items()
            for parameter in parameters
            for exit_set in self.exit_sets
        ]

    @property
    def piloted(self) -> Sequence[str]:
        """The keys of what the pilot runs: the oracle of cell A, that of B and few settings of C and D by exit set."""
        sets = [parse_exit_set(text) for text in self.exit_sets]
        oracles = [EarlyExit(EXACT, ORACLE), *(EarlyExit(DEPLOYED, ORACLE, None, layers) for layers in sets)]
        online = [
            EarlyExit(mode, rule, parameter, layers)
            for mode in (EXACT, DEPLOYED)
            for rule, parameters in IN_THE_PILOT.items()
            for parameter in parameters
            for layers in sets
        ]
        return [NORMAL, *(each.key for each in (*oracles, *online))]

    def commands(self, bound: Bound, tokens_of_a_text: float | None = None) -> Sequence[RecipeStep]:
        """All ten, at this bound; of texts, so many tokens are expected."""
        length = tokens_of_a_text or self.max_new_tokens / 2
        n = {part: len(self.parts.of[part]) for part in (TRAINING, PILOT, RUN)}
        learned = n[TRAINING] * TOKENS_OF_A_TEXT
        sets, training = ["--exit-sets", *self.exit_sets], [self.at(TEXTS), *self.execution]
        in_pilot = ["--modes", NORMAL, EXACT, DEPLOYED, "--rules", ORACLE, *_flags(IN_THE_PILOT), *sets]
        replays = ["--rules", *_flags(REPLAYED), "--modes", EXACT, *sets]
        within = ["--settings-from-replay", self.at(PILOT), "--within", f"{bound.risk}={bound.max_risk:g}"]
        asked = ["--risk", bound.risk, "--max-risk", f"{bound.max_risk:g}", "--confidence", f"{bound.confidence:g}"]
        of_texts = [
            "--modes",
            NORMAL,
            "--record-full-depth",
            "none",
            "--temperature",
            "1",
            "--max-new-tokens",
            str(TEXT_TOKENS),
        ]
        settings = [*within, "--modes", NORMAL, EXACT, DEPLOYED, "--record-full-depth", "final"]
        oracles = [*within, "--modes", EXACT, DEPLOYED, "--rules", ORACLE]
        return (
            RecipeStep(TEXTS, "sweep", self._sweep(TEXTS, TRAINING, *of_texts), self.at(TEXTS), learned),
            self._train(LINEAR, learned, *training),
            self._train(STATE, learned, *training, "--readout", self.at(LINEAR)),
            RecipeStep(
                PILOT, "sweep", self._judged(PILOT, PILOT, *in_pilot, "--only", *self.piloted), self.at(PILOT),
                n[PILOT] * length * 2 * len(self.piloted),
            ),
            RecipeStep(
                REPLAY, "replay", [self.at(PILOT), *replays, *self.execution], self.at(PILOT), n[PILOT] * length * 4
            ),
            RecipeStep(
                RUN, "sweep", self._judged(RUN, RUN, *settings), self.at(RUN), n[RUN] * length * (1 + SETTINGS_OF_RUN)
            ),
            RecipeStep(
                ORACLES, "sweep", self._judged(ORACLES, RUN, *oracles), self.at(ORACLES),
                n[RUN] * length * 2 * ORACLES_OF_RUN,
            ),
            RecipeStep(CHOICE, "choose", [self.at(RUN), *asked, "--modes", DEPLOYED], self.at(RUN), 0.0, 0),
            *self._timings(length),
        )  # fmt: skip

    def _sweep(self, name: str, part: str, *flags: str) -> Sequence[str]:
        layers = ["--exit-layers", *map(str, self.layers)]
        prompts = ["--prompts", self.parts.file(self.out, part)]
        return [*prompts, *self.common, *layers, *flags, *self.execution, "--out", self.at(name)]

    def _judged(self, name: str, part: str, *flags: str) -> Sequence[str]:
        learned = ["--readout", self.at(LINEAR), "--kv-maps", self.at(STATE)]
        screen = ["--screen", str(SCREEN)] if self.screens else []
        limit = ["--max-new-tokens", str(self.max_new_tokens), "--record-top-k", "1"]
        return self._sweep(name, part, *self.reading, *learned, *screen, *limit, *flags)

    def _train(self, what: str, learned: float, *flags: str) -> RecipeStep:
        arguments = [*flags, "--what", what, "--out", self.at(what)]
        return RecipeStep(what, "train", arguments, self.at(what), learned * PARTS_OF_A_TRAINING[what])

    def _timings(self, length: float) -> Sequence[RecipeStep]:
        """One call with all contenders and steps, and short ones with few, on prompts that the first one leaves."""
        drafts = [f"{layer}:{DRAFT_TOKENS}" for layer in self.layers[-N_DRAFTS:]]
        what = ["--chosen", "--draft", *drafts, "--baselines", GENERATE, f"{GENERATE}/{LOOKUP}"]
        in_a_round, n_run = max(PROMPTS_OF_A_ROUND, self.batch), len(self.parts.of[RUN])
        n_first = min(ROUNDS * in_a_round, n_run // 2)
        commands = []
        for name, batches, n_prompts, n_rounds, n_calls, n_contenders, flags in (
            (TIMES, (1, self.batch), n_first, ROUNDS, 1, 6 + len(self.layers), ["--steps"]),
            (AGAIN, (self.batch,), n_run - n_first, ROUNDS_OF_A_CALL, N_CALLS, 4, ["--unused-prompts", "--fastest"]),
        ):
            rows = [*dict.fromkeys(batches)]
            sizes = {
                "--prompts": min(n_prompts, n_rounds * in_a_round), "--per-round": in_a_round, "--rounds": n_rounds,
                "--calls": n_calls,
            }  # fmt: skip
            several = ["--batch", *map(str, rows), *(text for flag, n in sizes.items() for text in (flag, str(n)))]
            arguments = [self.at(RUN), *what, *several, *flags, *self.execution]
            tokens = n_calls * n_contenders * n_rounds * in_a_round * length * len(rows) * ONE_ROW
            commands.append(RecipeStep(name, "timings", arguments, self.at(RUN), tokens, n_calls))
        return commands


ONE_ROW: Final = 6  # times as long as with many rows a token takes with one


def _flags(rules: Mapping[str, tuple[float, ...]]) -> list[str]:
    return [
        f"{rule}={','.join(map(format_parameter, parameters))}" if parameters else rule
        for rule, parameters in rules.items()
    ]


def with_layer_between(layers: Sequence[int]) -> tuple[int, ...]:
    """Exitable layers, and one between the last two: which late layer tokens may leave at decides what is saved.

    Of the default model, exits at layer 23 alone save more than half as much again within 1 % disagreement as at 25.
    """
    between = [(layers[-2] + layers[-1] + 1) // 2] if len(layers) > 1 else []
    return tuple(sorted({*layers, *between}))


def model_flags(given: Mapping[str, Any]) -> list[str]:
    """Fields of a sweep's configuration as the flags that say them, those that were given."""
    found: list[str] = []
    for name, value in given.items():
        if value not in (None, False, (), []):
            values = [] if value is True else value if isinstance(value, list | tuple) else [value]
            found += [f"--{name.replace('_', '-')}", *map(str, values)]
    return found
