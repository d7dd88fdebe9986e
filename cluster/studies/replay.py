"""Replaying settings that were never run on the texts of a finished sweep: `replay_sweep`, which `jobs/replay.py` uses.

What was recorded is replayed in this process. For all else, one actor has a node's CPUs, or a GPU, for itself. Settings
that are finished are in the results, whatever happens next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final
from uuid import uuid4

from cluster.console.display import open_display
from cluster.liveness import Liveness
from cluster.session import location_for_all, ray_session
from cluster.studies.own_node import alone, room_for
from cluster.studies.replay_actor import ReplayActor
from cluster.studies.waiting import Asking
from eexit.messages.progress import Display
from eexit.messages.wording import counted
from eexit.plan.artefact_fit import refuse_misfit
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import NORMAL, Exit
from eexit.plan.model_facts import ModelFacts, look_at_model
from eexit.results.store.finished_sweep import FinishedSweep, read_finished, refuse_changed_model
from eexit.results.study_tables import REPLAYS
from eexit.studies.replay.plan import ReplayPlan, make_replay_plan
from eexit.studies.replay.recorded import Replayed, summary

TOKENS_PER_CALL: Final = 1024  # of the actor, between which progress is shown and interruptions are heard

# Some texts, from one number to another, under settings: for each text the result under each setting.
Replay = Callable[[Sequence[Exit], int, int], list[list[Replayed]]]


@dataclass(frozen=True)
class ReplayProgress:
    """What is being replayed, how many tokens were, and how much of all is done."""

    doing: str
    tokens: int
    share: float
    has_begun: bool = True

    def describe(self, rate: float, left: str) -> str:
        return f"{self.doing} · {left}"


def replay_sweep(
    results: str,
    kl_factors: Sequence[float] = (),
    rules: Mapping[str, Sequence[float]] | None = None,
    modes: Sequence[str] = (),
    text_of: str = NORMAL,
    probe: str | None = None,
    device: str = "auto",
    display: Display | None = None,
    look: Callable[[SweepConfig, int], ModelFacts] = look_at_model,
) -> list[Mapping[str, Any]]:
    """Replay settings on the texts of the finished sweep in `results`; returns their rows, also published there.

    The arguments are the flags of `jobs/replay.py` (`--help` describes them). `look` is as in `run_sweep`.

    Raises `UsageError` for what can't be replayed, and `SweepStopped` or `OSError` when going on would only fail.
    """
    display = display or open_display()
    sweep = read_finished(location_for_all(results, "the folder"), ["status"])
    sweep.store.probe("the folder")
    plan = make_replay_plan(sweep, results, kl_factors, rules or {}, modes, text_of, probe)
    n_settings, n_texts = counted(len(plan.settings), "setting"), counted(len(plan.transcripts), "text")
    doing = f"replaying {n_settings} on {n_texts} of {text_of}"
    if not plan.needs_model:
        display.say(f"{doing}, from what was recorded")
        with display:
            return _Replays(plan, sweep, plan.recorded, display).run()
    model, layers, _ = look(plan.config, 1)
    refuse_changed_model(sweep, results, model)
    refuse_misfit(plan.config, model, layers)
    with ray_session() as session:
        room = room_for(device, session.nodes)
        display.say(f"{doing}; one actor has {room}")
        with alone(ReplayActor, room, session.is_own, "replaying") as actor:
            asking = Asking(Liveness(session.is_own, [], display.say), "choose a device with more memory")
            asking.ask(actor.load.remote(plan, device, room.cpus))
            with display:
                return _Replays(plan, sweep, lambda *call: asking.ask(actor.replay.remote(*call)), display).run()


@dataclass
class _Replays:
    """Replays group after group of settings, and publishes all that are finished after each."""

    plan: ReplayPlan
    sweep: FinishedSweep
    replay: Replay
    display: Display
    replay_id: str = field(default_factory=lambda: uuid4().hex)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    tokens: int = 0

    def run(self) -> list[Mapping[str, Any]]:
        """The rows of all settings. What is published so far stays if it raises."""
        rows: list[Mapping[str, Any]] = []
        for group in self.plan.groups:
            rows += self._rows(group)
            REPLAYS.publish(self.sweep.store, self.replay_id, rows)
        self._show("done", last=True)
        return rows

    def _rows(self, group: Sequence[Exit]) -> list[Mapping[str, Any]]:
        by_text: list[list[Replayed]] = []
        for start, end in pairwise(self.plan.cuts(TOKENS_PER_CALL)):
            self._show(group[0].key if len(group) == 1 else f"{group[0].key} and {len(group) - 1} more")
            by_text += self.replay(group, start, end)
            self.tokens += self.plan.n_tokens(start, end)
        return [
            self._row(setting, replayed_T)
            for setting, replayed_T in zip(group, zip(*by_text, strict=True), strict=True)
        ]

    def _row(self, setting: Exit, replayed_T: Sequence[Replayed]) -> Mapping[str, Any]:
        plan = self.plan
        prompt_ids = [transcript.text.prompt_id for transcript in plan.transcripts]
        return {
            "replay_id": self.replay_id,
            "started": self.started,
            **setting.columns,
            "text_of": plan.text_of,
            "tokens": plan.n_tokens(),
            **summary(replayed_T, prompt_ids, plan.exitable_layers, plan.n_layers),
            "model": plan.config.model,
        }

    def _show(self, doing: str, last: bool = False) -> None:
        share = self.tokens / (self.plan.n_tokens() * len(self.plan.groups))
        self.display.show(ReplayProgress(doing, self.tokens, share, self.tokens > 0), last)
