"""The tables of the study that FINDINGS.md tells of: small copies of its sweeps, without tokens and texts.

A copy is a finished sweep's folder, so that `jobs/choose.py` and all that reads runs works on it; those of cuts have
their prompts and full depth in that of the exits beside. Means are over prompts; a prompt's runs, or those of its
group, count once.

Shapes: P prompts or groups of them.
"""

import json
import shutil
from collections.abc import Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd

from eexit.decode.costs.counting import LOOKS
from eexit.errors import UsageError
from eexit.plan.artefacts import CARD
from eexit.plan.configuration import NORMAL
from eexit.plan.splits import for_reporting, sort_of, units
from eexit.quality.estimates import Estimate, ValueKind, estimate_columns, estimate_ratios
from eexit.results.files import list_files
from eexit.results.layout import MANIFEST, Manifest, encode, generations_name
from eexit.results.seals import digest_of, encode_generations
from eexit.results.store.finished_sweep import FinishedSweep, read_finished
from eexit.results.store.folder import open_store
from eexit.results.study_tables import CHAINS, CHOICES, REPLAYS, TIMINGS

HOME: Final = Path(__file__).parents[3] / "reports" / "sample"
STUDY: Final = HOME / "study"
LOOK, PILOT, MAPPED = "look", "pilot", "mapped"  # the last two: oracles on the pilot, without maps and with them
TRIED: Final = ("tried", "late", "tried-mapped")  # settings on the pilot
FIRST, LATEST = "run", "again"  # the announced settings of both questions
LONG: Final = "longer/run"  # longer texts of the first
DTYPES: Final = ("float32", "bfloat16")
ASKED: Final = tuple(f"{what}-{dtype}" for what in (FIRST, LATEST, LONG) for dtype in DTYPES)
TIMES: Final = ("instead/copy", "instead/plain")  # drafts that are looked up, timed on prompts of two sorts
CUTS: Final = tuple(f"instead/cut-{n}" for n in (1, 2, 3, 4, 6, 8))  # so many layers fewer
CUT_EXITS: Final = "instead/exits"  # exits, and full depth, on the same prompts
REASONING: Final = tuple(f"reasoning/{name}" for name in ("steps", "fixed", "small"))  # the last by the default model
BY_ID: Final = (PILOT, MAPPED, *TRIED, *TIMES, *CUTS, CUT_EXITS, *REASONING)  # need no texts to tell prompts apart
SWEEPS: Final = (*BY_ID, LOOK, *ASKED)
READOUT, MAPS, CUT, STUDENT = "linear", "state", "cut", "student"  # artefacts, of which the cards are kept
CARDS: Final = (READOUT, MAPS, CUT, STUDENT)
CARDS_FOLDER: Final = "cards"
LEFT_OUT: Final = ("state", "exits", "probes")  # of a card: what each single map explains, and a student's exits
COLUMNS: Final = (
    "run_id", "prompt_id", "prompt", "configuration", "seed", "status", "n_tokens", "exit_layer_counts", "mean_depth",
    "cost_full", "cost_needed", "cost_run", "layers_run", "keys_written", *LOOKS, "correct", "disagreement",
    "lcs_share", "n_thinking_tokens", "thinking_closed",
)  # fmt: skip


def take(results: Path, into: Path = STUDY) -> None:
    """Copy what FINDINGS.md needs of the study's own results; what these lack stays as it was taken before.

    Raises `UsageError` if there are none, and for a sweep that is not finished.
    """
    sweeps = {name: _read(results, name) for name in SWEEPS if (results / name).exists()}
    paths = {name: results / name / CARD for name in CARDS}
    cards = {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.exists()}
    if not sweeps and not cards:
        raise UsageError(f"--from {results} has nothing of the study: give the folder that its results are in")
    for name in (*sweeps, *(f"{CARDS_FOLDER}/{name}" for name in cards)):
        shutil.rmtree(into / name, ignore_errors=True)  # now that all is there that takes its place
    for name, sweep in sweeps.items():
        target = open_store(into / name)
        short = {"prompt": [""] * len(sweep.runs), "run_id": [str(row) for row in range(len(sweep.runs))]}
        blank = sweep.runs
        for column, values in short.items():
            blank = blank.set_column(blank.schema.get_field_index(column), column, [values])
        target.publish(generations_name(list_files(sweep.store).stems[0]), encode_generations(blank, digest_of(b""), 0))
        for file in (name for table in (CHAINS, CHOICES, REPLAYS, TIMINGS) for name in table.files(sweep.store)):
            target.publish(file, sweep.store.read(file) or b"")
        target.publish(MANIFEST, _compact(json.loads(encode(_short(name, sweep.manifest)))))
    for name, held in cards.items():
        kept = {key: value for key, value in held.items() if key not in LEFT_OUT}
        open_store(into / CARDS_FOLDER / name).publish(CARD, _compact(kept))


def _compact(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _read(results: Path, name: str) -> FinishedSweep:
    return read_finished(str(results / name), COLUMNS)


def _short(name: str, manifest: Manifest) -> Manifest:
    """Without cards of what was learned and the model's folder, and with no more of prompts than tells them apart."""
    kept = ("id", "prompt", "group", "steps") if name in REASONING else ("id", "prompt", "group")
    prompts = [{what: prompt[what] for what in kept} for prompt in manifest.config["prompts"]]
    if name in BY_ID:
        prompts = [{**prompt, "prompt": "", "group": prompt["id"]} for prompt in prompts]
    if name in CUTS:
        prompts = []  # they are those of the exits beside
    model = Path(manifest.model["name"]).name  # without the folder of a file
    config = {**manifest.config, "prompts": prompts, "model": model}
    return replace(manifest, learned={}, model={**manifest.model, "name": model}, config=config)


def card(name: str) -> dict[str, Any]:
    """That of something learned."""
    found: dict[str, Any] = json.loads((STUDY / CARDS_FOLDER / name / CARD).read_text("utf-8"))
    return found


@dataclass(frozen=True)
class StudySweep:
    """The runs of one of the study's sweeps, as means over prompts."""

    name: str
    beside: "StudySweep | None" = None  # that has full depth on the same prompts, where this one has it not

    @cached_property
    def finished(self) -> FinishedSweep:
        return _read(STUDY, self.name)

    @cached_property
    def settings(self) -> list[str]:
        return [entry["key"] for entry in self.finished.manifest.configurations if entry["key"] != NORMAL]

    @cached_property
    def runs(self) -> pd.DataFrame:
        unit_of = units((self.beside or self).finished.manifest.config["prompts"])
        runs: pd.DataFrame = self.finished.runs.to_pandas()
        unit = runs.prompt_id.map(unit_of)
        return runs.assign(unit=unit, kind=runs.prompt_id.map(sort_of), n_decided=(runs.n_tokens - 1).clip(lower=0))

    @cached_property
    def choice(self) -> dict[str, Any]:
        """The row of the latest choice."""
        return CHOICES.rows(self.finished.store)[-1]

    @cached_property
    def n_prompts(self) -> int:
        return int(self.runs.unit.nunique())

    def of_prompts(self, key: str, column: str, among: pd.Series | None = None) -> pd.Series:
        """The mean of a column over each prompt's runs, by prompt."""
        runs = self.runs if among is None else self.runs[among]
        return runs[runs.configuration == key].groupby("unit")[column].mean().astype(float)

    def accuracy(self, key: str) -> Estimate:
        return mean_of(self.of_prompts(key, "correct"), ValueKind.SHARE)

    def beside_normal(self, key: str, among: pd.Series | None = None) -> pd.Series:
        """By prompt, how much more of its runs the configuration gets right than `normal`."""
        correct = self.of_prompts(key, "correct", among)
        return correct - (self.beside or self).of_prompts(NORMAL, "correct", among).reindex(correct.index)

    def lost(self, key: str, reporting: bool | None = None) -> Estimate:
        """The share of the prompts that `normal` gets right and the configuration gets wrong; None: of all prompts."""
        among = None if reporting is None else self.runs.unit.map(for_reporting) == reporting
        return mean_of(self.beside_normal(key, among) < 0, ValueKind.SHARE)

    def disagreement(self, key: str) -> Estimate:
        """The share of the decided tokens that full depth, given the same text, would not have said."""
        return self._ratio(key, self.runs.disagreement.astype(float) * self.runs.n_decided, "n_decided")

    def skipped(self, key: str) -> Estimate:
        """The share of the layers past the exits of the decided tokens."""
        return self._ratio(key, (1 - self.runs.mean_depth.astype(float)) * self.runs.n_decided, "n_decided")

    def saved(self, key: str) -> Estimate:
        """The share of full depth's multiply-adds that was not run."""
        return self._ratio(key, self.runs.cost_full.astype(float) - self.runs.cost_run.astype(float), "cost_full")

    def lost_prompts(self, key: str) -> Set[str]:
        """The prompts that `normal` gets right and the configuration gets wrong."""
        difference = self.beside_normal(key)
        return set(difference.index[difference < 0])

    def grows_beside(self, short: "StudySweep", key: str) -> Estimate:
        """The disagreement in these texts less that in shorter ones of the same prompts."""
        difference = self.of_prompts(key, "disagreement") - short.of_prompts(key, "disagreement")
        return mean_of(difference, ValueKind.NUMBER)

    def changed(self, key: str, among: pd.Series | None = None) -> Estimate:
        """The share of the texts that are not those of `normal`, of these prompts or of all."""
        lcs_share = self.of_prompts(key, "lcs_share")
        return mean_of((lcs_share if among is None else lcs_share[lcs_share.index.isin(among)]) < 1, ValueKind.SHARE)

    def mean(self, key: str, column: str = "n_tokens") -> float:
        return float(self.of_prompts(key, column).mean())

    def _ratio(self, key: str, above: pd.Series, below: str) -> Estimate:
        runs = self.runs.assign(above=above)
        known = runs[(runs.configuration == key) & (runs.n_decided > 0)].dropna(subset=["above", below])
        sums = known.groupby("unit")[["above", below]].sum().to_numpy(float)
        return estimate_ratios(sums[:, :1], sums[:, 1:])[0]


def mean_of(values: pd.Series, kind: ValueKind) -> Estimate:
    """Over prompts, of which each has a value; NaN where it has none."""
    return estimate_columns(values.to_numpy(float)[:, None], [kind])[0]
