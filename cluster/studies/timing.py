"""Timing a finished sweep's configurations: `time_sweep`, which `jobs/timings.py` uses.

One actor has a node's CPUs, or a GPU, for itself. In each round it times everything once, in another order. The rounds
that are finished are in the results, whatever happens next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from cluster.console.display import open_display
from cluster.liveness import Liveness
from cluster.session import location_for_all, ray_session
from cluster.studies.own_node import alone, room_for
from cluster.studies.timing_actor import TimingActor
from cluster.studies.waiting import Asking
from eexit.messages.progress import Display
from eexit.messages.wording import counted
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import GENERATE, NORMAL
from eexit.plan.model_facts import ModelFacts, look_at_model
from eexit.results.store.finished_sweep import FinishedSweep, read_finished, refuse_changed_model
from eexit.results.study_tables import TIMINGS
from eexit.studies.timing.plan import TimingPlan, make_plan


@dataclass(frozen=True)
class TimingProgress:
    """What is being timed, and how much of all steps is done."""

    doing: str
    tokens: int
    share: float
    has_begun: bool

    def describe(self, rate: float, left: str) -> str:
        return f"{self.doing} · {left}"


def time_sweep(
    results: str,
    keys: Sequence[str] = (),
    batches: Sequence[int] = (1, 8, 32),
    n_prompts: int = 8,
    n_tokens: int | None = None,
    n_rounds: int = 5,
    device: str = "auto",
    display: Display | None = None,
    look: Callable[[SweepConfig, int], ModelFacts] = look_at_model,
) -> list[Mapping[str, Any]]:
    """Time configurations of the finished sweep in `results`; returns the measurements, which are also published there.

    By default these are all of the sweep's configurations that are no oracles; `normal` and `generate` are always
    timed. `n_tokens` is by default the sweep's `max_new_tokens`. The arguments are the flags of `jobs/timings.py`
    (`--help` describes them). `look` is as in `run_sweep`.

    Raises `UsageError` for what can't be timed, and `SweepStopped` or `OSError` when going on would only fail.
    """
    display = display or open_display()
    sweep = read_finished(location_for_all(results, "the folder"), ["prompt_id", "status"])
    sweep.store.probe("the folder")
    plan = make_plan(sweep, results, keys, batches, n_prompts, n_tokens, n_rounds)
    refuse_changed_model(sweep, results, look(plan.config, 1)[0])
    with ray_session() as session:
        room = room_for(device, session.nodes)
        display.say(
            f"timing {counted(plan.n_chosen, 'configuration')}, {NORMAL} and {GENERATE}, "
            f"{counted(len(plan.config.prompts), 'prompt')} × {counted(plan.n_tokens, 'token')}, "
            f"{_rows(plan.batches)} at a time, {counted(plan.n_rounds, 'round')}; "
            f"one actor has {room}"
        )
        with alone(TimingActor, room, session.is_own) as actor:
            asking = Asking(Liveness(session.is_own, [], display.say), "lower --batch")
            common = asking.ask(actor.load.remote(plan.config, device, plan.n_tokens, room.cpus))
            if n_left_out := len(plan.config.prompts) - common["prompts"]:
                display.say(f"{counted(n_left_out, 'prompt')} left no room for {plan.n_tokens} tokens")
            if plan.drafting_generates and not asking.ask(actor.drafts_itself.remote()):
                display.say(f"the {GENERATE} of transformers can't draft with early layers of this model: not timed")
                plan = plan.without_drafting_generates()
            with display:
                return _Rounds(plan, sweep, common, actor, asking, display).run()


@dataclass
class _Rounds:
    """Times round after round, and publishes all that are finished after each."""

    plan: TimingPlan
    sweep: FinishedSweep
    common: Mapping[str, Any]  # columns that are the same for all measurements
    actor: Any
    asking: Asking
    display: Display
    timing_id: str = field(default_factory=lambda: uuid4().hex)
    steps_done: int = 0
    tokens: int = 0

    def run(self) -> list[Mapping[str, Any]]:
        """All measurements. What is published so far stays if it raises."""
        self._warm_up()
        started = datetime.now(UTC)
        rows: list[Mapping[str, Any]] = []
        for number in range(1, self.plan.n_rounds + 1):
            rows += [{**row, "timing_id": self.timing_id, "started": started} for row in self._round(number)]
            TIMINGS.publish(self.sweep.store, self.timing_id, rows)
        self._show("done", last=True)
        return rows

    def _warm_up(self) -> None:
        for contender, batch in self.plan.round(0):
            self._show(f"warming up {contender.key}, {counted(batch, 'row')}")
            self.asking.ask(self.actor.warm_up.remote(contender, batch, self.plan.steps_to_warm_up))
            self.steps_done += self.plan.steps_to_warm_up

    def _round(self, number: int) -> list[Mapping[str, Any]]:
        """The measurements of a round, by batch size, then in the order of the contenders."""
        rows: list[Mapping[str, Any]] = []
        for contender, batch in self.plan.round(number):
            self._show(f"{contender.key}, {counted(batch, 'row')}, round {number} of {self.plan.n_rounds}")
            measured = self.asking.ask(self.actor.time.remote(contender, batch))
            self.tokens += measured["tokens"]
            self.steps_done += self.plan.steps(batch)
            rows.append({**self.common, **contender.columns, **measured, "batch": batch, "round": number})
        return sorted(rows, key=self._order)

    def _order(self, row: Mapping[str, Any]) -> tuple[int, int]:
        names = [contender.key for contender in self.plan.contenders]
        return self.plan.batches.index(row["batch"]), names.index(row["configuration"])

    def _show(self, doing: str, last: bool = False) -> None:
        share = self.steps_done / self.plan.n_steps
        self.display.show(TimingProgress(doing, self.tokens, share, self.tokens > 0), last)


def _rows(batches: Sequence[int]) -> str:
    """Batch sizes in words: `1, 2 and 8 rows`."""
    *others, last = batches
    return " and ".join([*filter(None, [", ".join(map(str, others))]), counted(last, "row")])
