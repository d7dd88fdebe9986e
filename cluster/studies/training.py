"""Training exits on the texts of a finished sweep: `train_exits`, which `jobs/train.py` uses.

One actor has a node's CPUs, or a GPU, for itself. What it has learned is saved every so often and when it is
interrupted, and the same call goes on from there.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.console.display import open_display
from cluster.console.job import Device
from cluster.liveness import Liveness
from cluster.session import Session, location_for_all, ray_session
from cluster.studies.own_node import Room, alone, room_for
from cluster.studies.training_actor import Advanced, TrainingActor
from cluster.studies.waiting import Asking
from cluster.sweep import run_sweep
from eexit.messages.errors import UsageError
from eexit.messages.locations import shown
from eexit.messages.progress import Display
from eexit.messages.wording import counted
from eexit.plan.artefacts import CARD, FILES, TEXTS_FOLDER, Card
from eexit.plan.config import Prompt, SweepConfig
from eexit.plan.configuration import NORMAL
from eexit.plan.model_facts import ModelFacts, look_at_model
from eexit.results.store.finished_sweep import FinishedSweep, read_finished
from eexit.results.store.folder import open_store
from eexit.results.store.whereabouts import refuse_for_learned
from eexit.training.plan import DamagedArtefactError, TrainingPlan, is_finished, make_training_plan, refuse_settings
from eexit.training.texts import Text, distinct, read_texts

SECONDS_PER_CALL = 2.0  # of the actor, between which progress is shown and interruptions are heard
SECONDS_TO_SAVE = 120.0  # what was learned, when it is interrupted: the current block has to end first


@dataclass(frozen=True)
class TrainingProgress:
    """What is being done, and how far the training is."""

    doing: str
    advanced: Advanced

    @property
    def tokens(self) -> int:
        return self.advanced.tokens

    @property
    def share(self) -> float:
        return self.advanced.share

    @property
    def has_begun(self) -> bool:
        return self.share > 0

    def describe(self, rate: float, left: str) -> str:
        figures = {"loss": self.advanced.loss, "held out": self.advanced.held_out_loss}
        losses = [f"{name} {value:.3f}" for name, value in figures.items() if value is not None]
        return " · ".join([self.doing, *losses, f"{rate:,.0f} tokens/s", left])


def train_exits(
    results: str,
    what: str,
    out: str,
    prompts: Sequence[Prompt] = (),
    device: Device = "auto",
    display: Display | None = None,
    look: Callable[[SweepConfig, int], ModelFacts] = look_at_model,
    **settings: Any,
) -> Card:
    """Train `what` on the `normal` texts of the finished sweep in `results`, and write the artefact to folder `out`.

    `prompts` are more of them, whose texts are generated first. `settings` are fields of
    `eexit.training.setup.Settings`, which the flags of `jobs/train.py` describe. `look` is as in `run_sweep`. Returns
    the artefact's card. A damaged artefact is set aside and trained again.

    Raises `UsageError` for what can't be used, and `SweepStopped` or `OSError` when going on would only fail.
    """
    display = display or open_display()
    folder = _folder(out)
    given = {"what": what, **settings}
    sweep = read_finished(location_for_all(results, "the folder"), ["prompt_id"])
    refuse_settings(sweep, results, given)
    texts = read_texts(sweep.store)
    if prompts:
        texts = distinct([*texts, *_generated(sweep, prompts, folder, device, display, look)])
    plan = make_training_plan(sweep, results, texts, str(folder), given, look)
    try:
        if is_finished(plan):
            display.say(f"nothing is left to do: {folder} holds this training's artefact")
            return Card.model_validate_json((folder / CARD).read_bytes())
    except DamagedArtefactError as damaged:
        aside = open_store(folder).set_aside(CARD, *FILES)
        display.say(f"{damaged}: it is trained again; what is left of it is in {folder}/{aside}")
    with ray_session() as session:
        folder.mkdir(parents=True, exist_ok=True)
        return _train(plan, session, room_for(device, session.nodes), device, display)


def _folder(out: str) -> Path:
    """Raises `UsageError` for what is no folder that can be written to."""
    if "://" in out:
        raise UsageError(f"--out {shown(out)} is a URI: give a folder, which models are loaded from later")
    folder = Path(location_for_all(str(Path(out).expanduser())))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file: give a folder")
    store = open_store(folder)
    refuse_for_learned(store, f"--out {out}")
    store.probe()
    return folder


def _generated(
    sweep: FinishedSweep, prompts: Sequence[Prompt], folder: Path, device: Device, display: Display,
    look: Callable[[SweepConfig, int], ModelFacts],
) -> list[Text]:  # fmt: skip
    """The texts of more prompts, at full depth, from a sweep of their own."""
    grid = {"modes": (NORMAL,), "kl_factors": (), "rules": {}, "controls": (), "prompts": tuple(prompts)}
    config = SweepConfig.model_validate({**sweep.manifest.config, **grid})
    summary = run_sweep(config, folder / TEXTS_FOLDER, device=device, display=display, look=look)
    return read_texts(open_store(summary.out))


def _train(plan: TrainingPlan, session: Session, room: Room, device: str, display: Display) -> Card:
    data = plan.data
    display.say(
        f"training {plan.settings.what} on {counted(data['n_tokens'], 'token')} of "
        f"{counted(data['n_prompts'], 'prompt')}, {counted(data['n_held_out_prompts'], 'prompt')} held out; "
        f"one actor has {room}"
    )
    with alone(TrainingActor, room, session.is_own, "training") as actor:
        asking = Asking(Liveness(session.is_own, [], display.say), "lower --tokens-per-step")
        advanced: Advanced = asking.ask(actor.load.remote(plan, device, room.cpus))
        if advanced.tokens:
            display.say(f"{counted(advanced.tokens, 'token')} were learned from before: going on")
        with display:
            try:
                while not advanced.done:
                    display.show(TrainingProgress(plan.settings.what, advanced))
                    advanced = asking.ask(actor.advance.remote(SECONDS_PER_CALL))
            except KeyboardInterrupt:
                _save(actor, display)
                raise
            asking.ask(actor.save.remote())
            display.show(TrainingProgress("measuring on held-out texts", advanced))
            card: Mapping[str, Any] = asking.ask(actor.finish.remote())
            display.show(TrainingProgress("done", advanced), last=True)
    return Card.model_validate(card)


def _save(actor: Any, display: Display) -> None:
    """Save what was learned until the interruption; if that fails, what was saved last stays."""
    display.say("saving what was learned")
    with suppress(RayError):  # a call that takes too long raises one of these too
        ray.get(actor.save.remote(), timeout=SECONDS_TO_SAVE)
