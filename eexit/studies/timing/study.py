"""Timing a finished sweep's configurations: in each round everything is timed once, in another order."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Final

from eexit.output.result_table import ResultTable
from eexit.output.text import counted, with_versions
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import GENERATE, NORMAL, Configuration, Exit, Generate, Normal
from eexit.results.store.manifest import versions
from eexit.results.study_tables import TIMINGS
from eexit.studies.study import Done, Part, Row, Study, Unit
from eexit.studies.timing.speedups import drafts_table, timings_table
from eexit.studies.timing.steps import allowed_table, exits_at_one_layer, step_batches, step_table, step_times
from eexit.studies.timing.time_left import TimeLeft

WARM_UP_TOKENS: Final = 8

Contender = Configuration | Generate


@dataclass(frozen=True)
class SweepExits:
    """Where the sweep's tokens of the timed prompts exited: configuration → layer → share of its decided tokens.

    With it, steps are timed: `normal` and exits of all rows at one layer, also with one row and with one row less.
    """

    shares: Mapping[str, Mapping[int, float]]
    n_layers: int


class TimingStudy(Study):
    """Contenders at batch sizes, with the prompts of `config`.

    A unit is a round, and a part times one contender at one batch size; the first unit warms up.
    """

    table, needs_model, times = TIMINGS, True, True
    doing, if_memory_is_short = "timing", "lower --batch"

    def __init__(
        self, config: SweepConfig, contenders: Sequence[Contender], batches: Sequence[int], n_tokens: int,
        n_rounds: int, exits: SweepExits | None = None,
    ) -> None:  # fmt: skip
        self.config, self.contenders, self.batches = config, contenders, batches
        self.n_tokens, self.n_rounds, self._exits = n_tokens, n_rounds, exits
        self.time_left = TimeLeft()
        n_chosen = sum(isinstance(each, Configuration) for each in contenders) - 1
        self.opening = (
            f"timing {counted(n_chosen, 'configuration')}, {NORMAL} and {GENERATE}, "
            f"{counted(len(config.prompts), 'prompt')} × {counted(n_tokens, 'token')}, "
            f"{_rows(batches)} at a time, {counted(n_rounds, 'round')}"
        )

    def load(self, device: str, memory_share: float) -> Sequence[str]:
        """Raises `UsageError` if the model can't be loaded, or none of the prompts leaves room for so many tokens."""
        from eexit.studies.timing.contenders import Contenders, drafts_itself

        remarks = []
        self._contenders = Contenders(self.config, device, self.n_tokens)
        self._common = self._same_for_all()
        if n_left_out := len(self.config.prompts) - len(self._contenders.prompts):
            remarks.append(f"{counted(n_left_out, 'prompt')} left no room for {self.n_tokens} tokens")
        if any(map(_drafts, self.contenders)) and not drafts_itself(self._contenders.plain):
            remarks.append(f"the {GENERATE} of transformers can't draft with early layers of this model: not timed")
            self.contenders = [each for each in self.contenders if not _drafts(each)]
        return remarks

    def _same_for_all(self) -> Mapping[str, Any]:
        """The columns that are the same for all measurements."""
        import torch

        from eexit.studies.timing.contenders import describe_machine

        model = self._contenders.plain
        return {
            "model": self.config.model,
            "prompts": len(self._contenders.prompts),
            "prompt_ids": self._contenders.prompt_ids,
            "device": model.device.type,
            "machine": describe_machine(model.device),
            "threads": torch.get_num_threads(),
            "versions": with_versions(versions()),
            "dtype": str(model.dtype).removeprefix("torch."),
        }

    def units(self) -> Sequence[Unit]:
        return [Unit(self._parts(number)) for number in range(self.n_rounds + 1)]

    def _parts(self, number: int) -> Sequence[Part]:
        """The parts of a round; round 0 warms up. Contenders of one batch size are next to each other, shuffled."""
        parts = []
        for batch in self._all_batches:
            n_steps = -(-len(self.config.prompts) // batch) * self.n_tokens
            for contender in Random(f"{number} {batch}").sample(self.contenders, len(self.contenders)):
                if not (_is_step(contender) if batch not in self.batches else batch == 1 or not _drafts(contender)):
                    continue
                what, size = f"{contender.key}, {counted(batch, 'row')}", n_steps if number else self._n_warming_up
                text = f"{what}, round {number} of {self.n_rounds}" if number else f"warming up {what}"
                parts.append(Part(text, (contender, batch, number), size))
        return parts

    @property
    def _all_batches(self) -> Sequence[int]:
        """The batch sizes that are asked about, and those at which only steps are timed."""
        return tuple(dict.fromkeys([*self.batches, *(step_batches(self.batches) if self._exits else ())]))

    @property
    def _n_warming_up(self) -> int:
        return min(self.n_tokens, WARM_UP_TOKENS)

    def do(self, part: Part) -> Done:
        contender, batch, number = part.what
        if not self.time_left.has_time_for(batch, number):
            return Done([])
        if not number:
            self._contenders.warm_up(contender, batch, self._n_warming_up)
            return Done([])
        measured = asdict(self._contenders.time(contender, batch))
        row = {**self._common, **contender.columns, **measured, "batch": batch, "round": number}
        return Done([row], measured["tokens"])

    def rows(self, unit: Unit, results: Sequence[Any]) -> Sequence[Row]:
        """By batch size, then in the order of the contenders."""
        names = [contender.key for contender in self.contenders]
        rows = super().rows(unit, results)
        return sorted(rows, key=lambda row: (self._all_batches.index(row["batch"]), names.index(row["configuration"])))

    def closing(self, rows: Sequence[Row]) -> Sequence[ResultTable]:
        times = step_times(rows, self._exits.n_layers) if self._exits else None
        rows = [row for row in rows if row["batch"] in self.batches]
        of_steps = (step_table(times), allowed_table(rows, times, self._exits.shares)) if times and self._exits else ()
        return [table for table in (timings_table(rows), drafts_table(rows), *of_steps) if table]


def _is_step(contender: Contender) -> bool:
    """Whether it says how long a step takes: all rows leave at one layer, or at none."""
    return isinstance(contender, Normal) or (isinstance(contender, Exit) and exits_at_one_layer(contender.rule))


def _drafts(contender: Contender) -> bool:
    """Whether it is a `generate` that drafts, which decodes one row at a time only."""
    return isinstance(contender, Generate) and contender.draft_layer is not None


def _rows(batches: Sequence[int]) -> str:
    """Batch sizes in words: `1, 2 and 8 rows`."""
    *others, last = batches
    return " and ".join([*filter(None, [", ".join(map(str, others))]), counted(last, "row")])
