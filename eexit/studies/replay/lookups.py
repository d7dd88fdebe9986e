"""Drafts that would have been looked up in texts that are there: how many of them full depth would have agreed with.

Rows that draft write the texts of `normal`, so that everything follows from these, and no model is loaded. How much
faster that would be follows from how long steps of `normal` take, if they were timed: a pass takes as long as a step of
as many rows as it has tokens.

Shapes: T texts, G those that go on, L positions, A tokens that are looked up.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from eexit.decode.costs.draft_rounds import Rounds
from eexit.decode.steps.lookup import find, look_up
from eexit.errors import UsageError
from eexit.output.result_table import ResultTable
from eexit.output.text import counted, percent, written
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import AUTO, LOOKUP, NORMAL, Draft, parse_drafts
from eexit.plan.runs import same_for_every_seed
from eexit.plan.splits import groups
from eexit.results.store.finished_sweep import FinishedSweep
from eexit.results.study_tables import REPLAYS, TIMINGS
from eexit.studies.replay.recorded import Replayed, Transcript, read_transcripts, replay_row, summary
from eexit.studies.study import Done, Part, Row, Study, Unit
from eexit.training.texts import Text

StepSeconds = Mapping[int, float]  # of a step of `normal`, by its rows

CAPTION = (
    "What would have been looked up in {n_prompts} ({n_texts}) of normal, whose texts drafts write. Accepted: of all "
    "tokens that would have been looked up. Expected: times as fast as normal at so many rows, if a pass takes as long "
    "as a step of normal with as many rows as the pass has tokens (medians of the latest jobs/timings.py; – where no "
    "step has so many)."
)


class LookupStudy(Study):
    """Drafts on the texts of `normal`. A unit is a draft."""

    table = REPLAYS

    def __init__(
        self, config: SweepConfig, drafts: Sequence[Draft], transcripts: Sequence[Transcript], layers: Sequence[int],
        groups: Mapping[str, str], step_seconds: StepSeconds,
    ) -> None:  # fmt: skip
        self.config, self.drafts, self.transcripts = config, drafts, transcripts
        self._layers, self._groups, self._step_seconds = layers, groups, step_seconds
        self.opening = f"looking {counted(len(drafts), 'draft')} up in {counted(len(transcripts), 'text')}"

    def units(self) -> Sequence[Unit]:
        return [Unit([Part(draft.key, draft)]) for draft in self.drafts]

    def do(self, part: Part) -> Done:
        draft, texts = part.what, [transcript.text for transcript in self.transcripts]
        limits = {prompt.id: self.config.limit_of(prompt) for prompt in self.config.prompts}
        rounds_T = rounds_of(draft, texts, np.array([limits[text.prompt_id] for text in texts]))
        share_X = np.append(np.zeros(len(self._layers) - 1), 1.0)  # all tokens are full depth's
        units = [self._groups.get(text.prompt_id, text.prompt_id) for text in texts]
        *exitable_layers, final = self._layers
        means = summary(draft, [Replayed(share_X, 0.0, 0.0)] * len(texts), units, exitable_layers, final + 1)
        n_tokens = sum(len(text.token_ids) - 1 for text in texts)
        row = {
            **replay_row(self.config, draft, NORMAL, n_tokens, means),
            "drafted": sum(int(rounds.drafted_R.sum()) for rounds in rounds_T),
            "accepted": sum(int(rounds.accepted_R.sum()) for rounds in rounds_T),
            "passes": sum(len(rounds.drafted_R) for rounds in rounds_T),
        }
        return Done([row], n_tokens)

    def closing(self, rows: Sequence[Row]) -> Sequence[ResultTable]:
        return [lookups_table(rows, self._step_seconds)]


def make_lookup_plan(sweep: FinishedSweep, drafts: Sequence[str]) -> LookupStudy:
    """What to look up. Raises `UsageError` for drafts that no text tells of."""
    try:
        parsed = list(dict.fromkeys(draft for text in drafts for draft in parse_drafts(text)))
    except ValueError as error:
        raise UsageError(f"{error} (--draft)") from error
    for draft in parsed:
        if draft.layer is not None:
            raise UsageError(f"draft {draft} can't be replayed, since no text tells what a layer drafts: run a sweep")
        if draft.n_tokens is None:
            raise UsageError(
                f"draft {draft} follows how long passes take as they run: replay numbers, as in {LOOKUP}:2,4,8, and "
                f"leave {AUTO} to a sweep"
            )
    config = sweep.config()
    transcripts = read_transcripts(sweep.store, NORMAL, once=NORMAL in same_for_every_seed(config))
    if not transcripts:
        raise UsageError(f"{sweep.name} has no texts of {NORMAL}, which are those that drafts write")
    layers = [*sweep.manifest.exitable_layers, sweep.manifest.model["n_layers"] - 1]
    groups_of = groups(sweep.manifest.config["prompts"])
    return LookupStudy(config, parsed, transcripts, layers, groups_of, latest_steps(TIMINGS.rows(sweep.store)))


def latest_steps(timings: Sequence[Mapping[str, Any]]) -> StepSeconds:
    """The median seconds of a step of `normal`, by its rows, in the latest call of `jobs/timings.py`."""
    latest = max(timings, key=lambda row: row["started"])["timing_id"] if timings else None
    found: dict[int, list[float]] = {}
    for row in timings:
        if row["timing_id"] == latest and row["configuration"] == NORMAL:
            found.setdefault(row["batch"], []).append(row["seconds"] * row["batch"] / row["tokens"])
    return {rows: median(seconds) for rows, seconds in sorted(found.items())}


def rounds_of(draft: Draft, texts: Sequence[Text], most_T: np.ndarray) -> list[Rounds]:
    """The rounds of each text, which may have `most_T` generated tokens, as `decode.steps.drafting` would have."""
    assert draft.n_tokens is not None
    n_prompt_T = np.array([len(text.prompt_token_ids) for text in texts])
    end_T = n_prompt_T + [len(text.token_ids) for text in texts]
    text_TL = np.full((len(texts), end_T.max() + draft.n_tokens), -1)  # what is said behind an end is nothing
    for row, text in enumerate(texts):
        text_TL[row, : end_T[row]] = [*text.prompt_token_ids, *text.token_ids]
    rounds: list[list[list[int]]] = [[] for _ in texts]
    n_T, index_A = n_prompt_T + 1, np.arange(draft.n_tokens)
    while len(going := np.flatnonzero(n_T < end_T)):
        text_GL, n_G, input_index_G = text_TL[going], n_T[going], n_T[going] - n_prompt_T[going] - 1
        start_G, matched_G = find(text_GL, n_G)
        ahead_G = np.where(matched_G > 0, np.minimum(draft.n_tokens, most_T[going] - input_index_G - 2), 0)
        said_GA = np.take_along_axis(text_GL, n_G[:, None] + index_A, 1)
        agrees_GA = (look_up(text_GL, n_G, start_G, draft.n_tokens) == said_GA) & (index_A < ahead_G[:, None])
        agreed_G = np.logical_and.accumulate(agrees_GA, 1).sum(1)
        given_G = np.minimum(agreed_G + 1, end_T[going] - n_G)
        rejected_G = (agreed_G < ahead_G) & (given_G > agreed_G)
        columns = input_index_G, ahead_G, np.minimum(agreed_G, given_G), rejected_G
        for row, of_row in zip(going.tolist(), np.stack(columns, 1).tolist(), strict=True):
            rounds[row].append(of_row)
        n_T[going] += given_G
    return [Rounds.of(of_text) for of_text in rounds]


def lookups_table(rows: Sequence[Row], step_seconds: StepSeconds) -> ResultTable:
    """A line per draft; `rows` are those of one replay."""
    n_prompts, n_texts = counted(rows[0]["prompts"], "prompt"), counted(rows[0]["texts"], "text")
    table = ResultTable(CAPTION.format(n_prompts=n_prompts, n_texts=n_texts))
    table.add("key", "draft")
    table.add("number", "accepted", "tokens\nper pass", *(f"expected,\n{counted(n, 'row')}" for n in step_seconds))
    for row in rows:
        accepted = row["accepted"] / row["drafted"] if row["drafted"] else None
        expected = [written(expected_speedup(row, n, step_seconds), ".2f") for n in step_seconds]
        table.add_row(row["configuration"], percent(accepted), f"{row['tokens'] / row['passes']:.2f}", *expected)
    return table


def expected_speedup(row: Row, n_rows: int, step_seconds: StepSeconds) -> float | None:
    """How many times as fast as `normal` it would be with so many rows; None beyond the rows that were timed."""
    n_tokens = n_rows * (1 + row["drafted"] / row["passes"])
    if n_tokens > max(step_seconds):
        return None
    seconds = np.interp(n_tokens, list(step_seconds), list(step_seconds.values()))
    return float(row["tokens"] / row["passes"] * step_seconds[n_rows] / seconds)
