"""Synthetic models with a known truth, whose drawn sweeps go through the real choice and the real conclusion.

Shapes: P prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from synthetic_sweeps import FINAL, LAYERS

from cluster.assessment.prompt_splits import CONFIDENCE_OF_A_SMOKE_RUN, ROLES, role_of, sizes_at
from eexit.plan.configuration import NORMAL, EarlyExit, NoExit
from eexit.plan.splits import shuffled
from eexit.quality.learn_then_test import alpha_share
from eexit.results.finished_sweep import FinishedSweep
from eexit.results.layout import Manifest
from eexit.results.store.folder import open_store
from eexit.results.tables import GENERATIONS
from eexit.studies.assessment.cells import AS_RUN, CERTIFIED, Shares
from eexit.studies.assessment.conclude import verdict_of
from eexit.studies.assessment.verdict import Bound, Verdict
from eexit.studies.replay.shortlist import CellSettings, Neighbours, PredictedSetting, neighbours
from eexit.studies.selection.select_setting import choice_columns, choose_setting
from eexit.studies.selection.selection_args import AlphaShare, SelectionArgs
from eexit.studies.selection.selection_data import SelectionData, sequences_of

BOUND: Final = Bound(risk="answers", max_risk=0.02)
ACCURACY: Final = 0.74  # of full depth
N_CALLS, OF_CALLS = 24, 0.07  # further calls, and by how much the logarithm of a ratio differs between them
N_PILOT: Final = 200
BATCH: Final = 8
MODES: Final = {"B": "mapped_residual", "C": "unfrozen", "D": "mapped_residual"}
ORACLE: Final = EarlyExit("unfrozen", "agree")  # of cell A
Rates = Sequence[tuple[float, float]]  # of settings, from safe to bold: what they lose and save


@dataclass(frozen=True)
class World:
    """What settings truly lose and save, in percent. `looks` is what deciding costs, `time` that of each setting, and
    `steps` what a step at layer 20 takes by rows, as multiples of full depth's.
    """

    A: float = 39.5
    B: Rates = ((0.3, 16.8), (1.7, 23.5), (21.7, 47.3))
    C: Rates = ((0.4, 6.0), (1.0, 8.0), (3.0, 11.0), (8.0, 14.0))
    D: Rates = ((0.7, 5.2), (2.0, 7.0), (4.7, 8.2), (9.0, 9.0))
    looks: float = 1.0
    time: float = 0.95
    steps: Mapping[int, float] = field(default_factory=lambda: {1: 0.8, BATCH: 0.8})


def setting(cell: str, at: int) -> EarlyExit:
    if cell == "B":
        return EarlyExit(MODES[cell], "agree", None, (LAYERS[-1 - at],))
    return EarlyExit(MODES[cell], "confidence", 0.99 - at / 10)


@cache
def prompts_of(n: int) -> Sequence[str]:
    """Return as many prompts for each role as an assessment has of so many."""
    sizes = {role: getattr(sizes_at(BOUND.max_risk), role) for role in ROLES}
    texts, found = [f"question {number}?" for number in range(1, 3 * n)], list[str]()
    for role, size in sizes.items():
        found += [text for text in texts if role_of(text) == role][: round(n * size / sum(sizes.values()))]
    return [found[at] for at in shuffled(found)]


class Drawn:
    """One draw of a world: its two sweeps, its pilot's picks, its choice and its timings."""

    def __init__(self, world: World, n: int, random: np.random.Generator) -> None:
        self.world, self.prompts, self.random = world, prompts_of(n), random
        confidence = BOUND.confidence if n >= 300 else CONFIDENCE_OF_A_SMOKE_RUN
        self.bound = BOUND.model_copy(update={"confidence": confidence})
        cells = {
            cell: {setting(cell, at): of_setting for at, of_setting in enumerate(getattr(world, cell))}
            for cell in MODES
        }
        self.settings = CellSettings(
            Neighbours(None, ORACLE.key), *(self._pick(cell == "B", of_cell) for cell, of_cell in cells.items())
        )
        exits = {ORACLE: (0.0, world.A)} | cells["B"] | cells["C"] | cells["D"]
        self.rates = {None: (0.0, 0.0), NORMAL: (0.0, 0.0)} | {each.key: exits[each] for each in exits}
        easy_P, rank_P = random.normal(size=len(self.prompts)), random.random(len(self.prompts))
        self._right_P = random.random(len(self.prompts)) < ACCURACY
        runs, oracles = {*self.settings.C, *(each.key for each in cells["D"])}, {ORACLE.key, *self.settings.B}
        self.run = self._sweep("run", [NoExit(), *(each for each in exits if each.key in runs)], easy_P, rank_P)
        self.oracles = self._sweep("oracles", [each for each in exits if each.key in oracles], easy_P, rank_P)
        asked = SelectionArgs("answers", self.bound.max_risk, self.bound.confidence, modes=[MODES["D"]])
        measured, share = SelectionData(self.run, asked), AlphaShare(1, 1, alpha_share(self.bound.confidence))
        self.choice = choice_columns(choose_setting(measured, sequences_of(measured), share))

    def _pick(self, is_oracle: bool, of_cell: Mapping[EarlyExit, tuple[float, float]]) -> Neighbours:
        wrong_by = float(np.exp(self.random.normal(0, 0.4)))
        settings = []
        for each, (loss, saved) in of_cell.items():
            seen = self.random.binomial(N_PILOT, loss / 100) / N_PILOT if is_oracle else wrong_by * loss / 100
            settings.append(PredictedSetting(each, seen, saved / 100))
        return neighbours(settings, BOUND.max_risk)

    def _sweep(
        self, name: str, configurations: Sequence[NoExit | EarlyExit], easy_P: np.ndarray, rank_P: np.ndarray
    ) -> FinishedSweep:
        n, random, tables = len(self.prompts), self.random, []
        full_P = 100 * np.exp(0.3 * easy_P)
        for each in configurations:
            loss, saved = self.rates[each.key]
            own_P = 0.07 * (0.7 * easy_P + 0.71 * random.normal(size=n)) * min(1, saved / 12)
            own_rank_P = np.where(random.random(n) < 0.5, rank_P, random.random(n))
            lost_P = self._right_P & (own_rank_P < loss / 100 / ACCURACY)
            # The mean of what is saved, weighted by cost, is the rate: the common part has another mean then.
            shift = 0.07 * 0.7 * 0.3 * min(1, saved / 12)
            exits_P = full_P * (1 - saved / 100 - own_P + shift)
            is_normal, is_oracle = isinstance(each, NoExit), isinstance(each, EarlyExit) and each.is_oracle
            run_P = exits_P + (0 if is_normal else full_P * self.world.looks / 100)
            values = dict.fromkeys(GENERATIONS.names, [None] * n) | {
                "prompt_id": [str(at) for at in range(n)], "prompt": self.prompts, "configuration": [each.key] * n,
                "seed": [0] * n, "status": ["ok"] * n, "correct": self._right_P & ~lost_P, "lcs_share": np.ones(n),
                "macs_full": full_P, "macs_to_exit": exits_P, "macs_executed": [None] * n if is_oracle else run_P,
                "run_id": [f"{each.key}-{at}" for at in range(n)],
                "exit_layer_counts": [[(FINAL if is_normal else 20, 1)]] * n,
            }  # fmt: skip
            tables.append(pa.Table.from_pydict(values, GENERATIONS))
        prompts = [{"id": str(at), "prompt": text, "answer": "4"} for at, text in enumerate(self.prompts)]
        manifest = Manifest(
            config={"model": "tiny", "temperature": 0.0, "record_full_depth": "final", "prompts": prompts},
            configurations=[{"key": each.key, **each.columns} for each in configurations],
            model={"n_layers": FINAL + 1, "dtype": "float32"}, exitable_layers=LAYERS,
        )  # fmt: skip
        return FinishedSweep(open_store("nowhere"), manifest, pa.concat_tables(tables), name)

    def timings(self) -> list[dict[str, Any]]:
        """Return a first call, and further calls of few configurations on other prompts, each with steps."""
        tested = self.choice["tested"]
        key = self.choice["configuration"] or min(tested, key=lambda each: each["mean_loss"])["configuration"]
        rows: list[dict[str, Any]] = []
        for call in range(N_CALLS + 1):
            drawn = np.exp(self.random.normal(0, OF_CALLS / math.sqrt(2), 3))
            times = dict(zip(("normal", "generate", key), drawn * (1.0, 1.1, self.world.time), strict=True))
            for number in range(1, 9 if call == 0 else 2):
                noise = np.exp(self.random.normal(0, 0.01, 8))
                of_round = {"timing_id": str(call), "round": number, "tokens": 100, "machine": "a CPU", "threads": 2,
                            "prompt_ids": [f"{call}-{number}"], "rule": None, "parameter": None}  # fmt: skip
                timed = [(each, BATCH, times[each] * factor) for each, factor in zip(times, noise, strict=False)]
                for at, (batch, step) in enumerate(self.world.steps.items()):
                    timed.append(("unfrozen/fixed/20", batch, times["normal"] * step * noise[4 + at]))
                    if batch != BATCH:
                        timed.append(("normal", batch, times["normal"] * noise[6 + at]))
                for key_of_row, batch, seconds in timed:
                    fixed = {"rule": "fixed", "parameter": 20.0} if "fixed" in key_of_row else {}
                    rows.append(of_round | fixed | {"configuration": key_of_row, "batch": batch, "seconds": seconds})
        return rows

    def verdict(self) -> Verdict:
        return verdict_of([self.run, self.oracles], self.settings, self.choice, self.timings(), self.bound, BATCH)

    def true_levels(self) -> dict[str, float]:
        """Return what each level truly saves, given the pilot's picks and what was certified."""
        levels, looks = dict[str, float](), self.world.looks / 100
        for cell, (safe_key, bold_key) in self.settings._asdict().items():
            (safe_loss, safe), (bold_loss, bold) = (np.array(self.rates[key]) / 100 for key in (safe_key, bold_key))
            shares = Shares.at_bound(safe_loss, bold_loss, BOUND.max_risk)
            levels[cell] = float(shares.safe * safe + shares.bold * bold)
            levels[AS_RUN] = levels[cell] - looks * float(shares.safe * (safe_key is not None) + shares.bold)  # D's
        certified = self.choice["configuration"]
        levels[CERTIFIED] = 0.0 if certified is None else self.rates[certified][1] / 100 - looks
        return levels


GOOD: Final = World(
    A=30, B=((0.3, 20), (1.2, 24), (5, 27)), C=((0.3, 18), (1.2, 22), (5, 25)),
    D=((0.25, 7), (0.5, 11), (3, 13), (6, 15)), time=0.90,
)  # fmt: skip
SPREAD: Final = ((0.7, 4.0), (2.2, 5.2), (4.7, 7.0), (9.0, 9.0))
LESS, MORE = ((0.5, 9.0), (1.5, 11.0), (5.0, 14.0), (22.0, 30.0)), ((0.3, 11.0), (1.5, 19.0), (3.0, 23.0), (8.0, 28.0))
LITTLE: Final = ((0.3, 0.5), (1.2, 0.8), (5.0, 1.0), (9.0, 1.2))
LOSING: Final = ((6.0, 7.0), (9.0, 11.0), (12.0, 13.0), (16.0, 15.0))
WORLDS: Final[Mapping[str, tuple[World, bool | None, str | None]]] = {
    "pays": (GOOD, True, None),
    "costs more": (
        World(A=25, B=((0.3, 16), (1.2, 18), (5, 20)), C=((0.3, 15), (1.2, 17), (5, 19)),
              D=((0.3, 12), (0.8, 14), (3, 16), (6, 18)), looks=20), False, "deciding",
    ),
    "slower": (replace(GOOD, time=1.08, steps={1: 0.8, BATCH: 0.8}), False, "overhead"),
    "batches": (replace(GOOD, time=1.08, steps={1: 0.3, BATCH: 0.98}), False, "batches"),
    "loses too much": (replace(GOOD, D=LOSING), False, None),
    "ceiling": (World(A=2, B=LITTLE, C=LITTLE, D=LITTLE), None, "ceiling"),
    "mode": (World(B=LESS, C=MORE, D=SPREAD, looks=6), None, "mode"),
    "knowledge": (World(B=MORE, C=LESS, D=SPREAD, looks=6), None, "knowledge"),
    "proof": (
        World(A=22, B=((0.3, 15), (1.8, 16), (5, 17)), C=((0.3, 15), (1.8, 16), (5, 17)),
              D=((1.8, 14), (2.4, 15), (5, 16), (9, 17))), None, "proof",
    ),
}  # fmt: skip
