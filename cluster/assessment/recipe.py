"""Ten commands of an assessment, in order, as `eexit assess --dry-run` prints them; `jobs/README.md` explains them.

Cells combine what decides exits with a KV cache (`eexit.studies.assessment.cells`). The run has the settings of cells C
and D and further ones to certify; the oracles have cells A and B on the same prompts.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cluster.assessment.prompt_splits import PILOT, RUN, TRAINING, PromptSplits
from eexit.method.rules import format_parameter
from eexit.method.screen_size import ScreenSize
from eexit.plan.configuration import EVERY, GENERATE, LOOKUP, NORMAL, EarlyExit, parse_exit_set
from eexit.quality.estimates import MIN_CALLS
from eexit.studies.assessment.verdict import Bound
from eexit.studies.replay.shortlist import AIMS, EXACT, ORACLE

TEXTS, LINEAR, KV_MAPS, REPLAY, ORACLES, CHOICE, TIMES, AGAIN = (
    "texts", "linear", "kv-maps", "replay", "oracles", "choice", "times", "again",
)  # fmt: skip
DEPLOYED: Final = "mapped_residual"
Rules = Mapping[str, tuple[float, ...]]
IN_THE_PILOT: Final[Rules] = {"confidence": (0.7, 0.9)}  # which are replayed too
REPLAYED: Final[Rules] = {  # down to where most tokens exit at once, and lose more than the bound
    "confidence": (0.3, 0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 0.97, 0.99),
    "entropy": (3.0, 1.5, 0.7, 0.35, 0.25, 0.1, 0.05),
    "similarity": (0.95, 0.97, 0.985, 0.99),
}
LAST_ALONE: Final = 3  # late layers with an exit set each: fewer exit scores cost less
# Coarse, since a rule needs no exact top token: on the default model, nearly as many tokens exit at equal disagreement
# as with 96 dimensions and 1,024 tokens, which cost nearly three times as much.
SCREEN: Final = ScreenSize(32, 256)
TEXT_TOKENS: Final = 96  # of a training text, at most
TOKENS_OF_A_TEXT: Final = 40  # of a training text, about
DRAFT_TOKENS, N_DRAFTS = 4, 2
ROUNDS, PROMPTS_OF_A_ROUND = 8, 4  # of the call that finds the fastest
N_CALLS, ROUNDS_OF_A_CALL = 24, 2  # further ones, over which times have intervals
PARTS_OF_A_TRAINING: Final = {LINEAR: 3, KV_MAPS: 6}  # multiples of its texts' duration
ONE_ROW: Final = 15  # duration of a token with one slot, as a multiple of its duration in a sweep


@dataclass(frozen=True)
class RecipeStep:
    """One command of an assessment, with its results folder and its size: full-depth tokens and model loads."""

    name: str
    script: str
    arguments: Sequence[str]
    folder: str
    tokens: float
    n_loads: int = 1

    @property
    def line(self) -> str:
        """The command line, as a user types it."""
        return f"eexit {self.script} {shlex.join(self.arguments)}"


@dataclass(frozen=True)
class Recipe:
    """Facts that the commands of an assessment depend on: prompts, exitable layers, flags and batch size."""

    out: str
    parts: PromptSplits
    layers: Sequence[int]
    common: Sequence[str]  # flags of all sweeps
    reading: Sequence[str]  # flags of sweeps whose texts are graded
    execution: Sequence[str]  # flags of all commands that load the model
    max_new_tokens: int
    screens: bool  # True if the lm_head costs more than a layer
    batch: int = 1
    is_smoke_run: bool = False

    @property
    def n_rounds(self) -> int:
        """Number of rounds of the call that finds the fastest configuration."""
        return ROUNDS_OF_A_CALL if self.is_smoke_run else ROUNDS

    @property
    def n_calls(self) -> int:
        """Number of further calls; a smoke run has as few as give an interval."""
        return MIN_CALLS if self.is_smoke_run else N_CALLS

    def at(self, name: str) -> str:
        """Return the folder of a step's results."""
        return f"{self.out.rstrip('/')}/{name}"

    @property
    def exit_sets(self) -> Sequence[str]:
        """Exit sets: each late layer alone, and all exitable layers."""
        alone = [str(layer) for layer in reversed(self.layers[-LAST_ALONE:])] if len(self.layers) > 1 else []
        return (*alone, EVERY)

    @property
    def piloted(self) -> Sequence[str]:
        """Keys of the pilot: the oracle in cell A and, by exit set, in cell B, and few settings of cells C and D."""
        online = [key for mode in (EXACT, DEPLOYED) for key in self.keys(mode, IN_THE_PILOT)]
        return [NORMAL, EarlyExit(EXACT, ORACLE).key, *self.keys(DEPLOYED, {ORACLE: (None,)}), *online]

    def keys(self, mode: str, rules: Mapping[str, Sequence[float | None]]) -> Sequence[str]:
        """Return the configuration keys of a mode with these rules and parameters, in all exit sets."""
        return [
            EarlyExit(mode, rule, parameter, parse_exit_set(exit_set)).key
            for rule, parameters in rules.items()
            for parameter in parameters
            for exit_set in self.exit_sets
        ]

    def commands(self, bound: Bound, tokens_of_a_text: float | None = None) -> Sequence[RecipeStep]:
        """Return all ten commands at a bound. `tokens_of_a_text` is the mean length of graded texts, if known."""
        length = tokens_of_a_text or self.max_new_tokens / 2
        n = {part: len(self.parts.of[part]) for part in (TRAINING, PILOT, RUN)}
        learned = n[TRAINING] * TOKENS_OF_A_TEXT
        sets, training = ["--exit-sets", *self.exit_sets], [self.at(TEXTS), *self.execution]
        of_texts = f"--modes {NORMAL} --record-full-depth none --temperature 1 --max-new-tokens {TEXT_TOKENS}".split()
        in_pilot = ["--modes", NORMAL, EXACT, DEPLOYED, "--rules", ORACLE, *_flags(IN_THE_PILOT), *sets]
        replays = [self.at(PILOT), "--rules", *_flags(REPLAYED), "--modes", EXACT, *sets, *self.execution]
        within = ["--settings-from-replay", self.at(PILOT), "--within", f"{bound.risk}={bound.max_risk:g}"]
        settings = ["--modes", NORMAL, EXACT, DEPLOYED, "--record-full-depth", "final"]
        oracles = ["--modes", EXACT, DEPLOYED, "--rules", ORACLE]
        asked = ["--risk", bound.risk, "--max-risk", f"{bound.max_risk:g}", "--confidence", f"{bound.confidence:g}"]
        n_settings = {PILOT: len(self.piloted), RUN: 3 + len(AIMS), ORACLES: 3}
        return (
            RecipeStep(TEXTS, "sweep", self._sweep(TEXTS, TRAINING, *of_texts), self.at(TEXTS), learned),
            self._train(LINEAR, learned, *training),
            self._train(KV_MAPS, learned, *training, "--readout", self.at(LINEAR)),
            self._graded(PILOT, PILOT, n[PILOT] * length * n_settings[PILOT], *in_pilot, "--only", *self.piloted),
            RecipeStep(REPLAY, "replay", replays, self.at(PILOT), n[PILOT] * length * 4),
            self._graded(RUN, RUN, n[RUN] * length * n_settings[RUN], *within, *settings),
            self._graded(ORACLES, RUN, n[RUN] * length * n_settings[ORACLES], *within, *oracles),
            RecipeStep(CHOICE, "choose", [self.at(RUN), *asked, "--modes", DEPLOYED], self.at(RUN), 0.0, 0),
            *self._timings(length, n[RUN]),
        )

    def _sweep(self, name: str, part: str, *flags: str) -> Sequence[str]:
        layers = ["--exit-layers", *map(str, self.layers)]
        prompts = ["--prompts", self.parts.file(self.out, part)]
        return [*prompts, *self.common, *layers, *flags, *self.execution, "--out", self.at(name)]

    def _graded(self, name: str, part: str, tokens: float, *flags: str) -> RecipeStep:
        artefacts = ["--readout", self.at(LINEAR), "--kv-maps", self.at(KV_MAPS)]
        screen = ["--screen", str(SCREEN)] if self.screens else []
        limit = ["--max-new-tokens", str(self.max_new_tokens), "--record-top-k", "1"]
        arguments = self._sweep(name, part, *self.reading, *artefacts, *screen, *limit, *flags)
        return RecipeStep(name, "sweep", arguments, self.at(name), tokens)

    def _train(self, what: str, learned: float, *flags: str) -> RecipeStep:
        arguments = [*flags, "--what", what, "--out", self.at(what)]
        return RecipeStep(what, "train", arguments, self.at(what), learned * PARTS_OF_A_TRAINING[what])

    def _timings(self, length: float, n_run: int) -> Sequence[RecipeStep]:
        """Return a call that times all configurations, and short calls that time the fastest on other prompts."""
        drafts = [f"{layer}:{DRAFT_TOKENS}" for layer in self.layers[-N_DRAFTS:]]
        what = ["--chosen", "--draft", *drafts, "--baselines", GENERATE, f"{GENERATE}/{LOOKUP}", "--steps"]
        in_a_round, slots = max(PROMPTS_OF_A_ROUND, self.batch), [*dict.fromkeys((1, self.batch))]
        n_first = min(self.n_rounds * in_a_round, n_run // 2)
        what += ["--batch", *map(str, slots), "--per-round", str(in_a_round)]

        def step(name: str, n_prompts: int, n_rounds: int, n_calls: int, n_timed: int, *flags: str) -> RecipeStep:
            sizes = f"--prompts {min(n_prompts, n_rounds * in_a_round)} --rounds {n_rounds} --calls {n_calls}"
            arguments = [self.at(RUN), *what, *sizes.split(), *flags, *self.execution]
            tokens = n_calls * n_timed * n_rounds * in_a_round * length * len(slots) * ONE_ROW
            return RecipeStep(name, "timings", arguments, self.at(RUN), tokens, n_calls)

        return (
            step(TIMES, n_first, self.n_rounds, 1, 6 + len(self.layers)),
            step(AGAIN, n_run - n_first, ROUNDS_OF_A_CALL, self.n_calls, 5, "--unused-prompts", "--fastest"),
        )


def _flags(rules: Rules) -> list[str]:
    return [f"{rule}={','.join(map(format_parameter, parameters))}" for rule, parameters in rules.items()]
