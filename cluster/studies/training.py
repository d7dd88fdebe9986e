"""Training exits on the texts of a finished sweep: `train_exits`, which `jobs/train.py` uses.

One actor has a node's CPUs, or a GPU, for itself. What it has learned is saved every so often and when it is
interrupted, and the same call goes on from there. It answers with numbers and text only, so that the driver need not
import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.console.display import open_display
from cluster.job import Device, location_for_all
from cluster.studies.own_node import OwnActor, own_actor
from cluster.sweep import run_sweep
from eexit.errors import UsageError
from eexit.output.locations import shown
from eexit.output.progress import Display, Progress
from eexit.output.text import counted
from eexit.plan.artefacts import CARD, FILES, TEXTS_FOLDER, Card
from eexit.plan.config import NO_EXITS, SweepConfig
from eexit.plan.model_facts import ModelFacts, look_at_model
from eexit.results.store.finished_sweep import read_finished
from eexit.results.store.folder import open_store
from eexit.results.whereabouts import FOR_LEARNED, refuse_inside
from eexit.studies.study import Work
from eexit.training.plan import (
    DamagedArtefactError,
    TrainingPlan,
    WhatToTrain,
    is_finished,
    make_training_plan,
    refuse_settings,
)
from eexit.training.texts import distinct, read_texts

SECONDS_PER_CALL = 2.0  # of the actor, between which progress is shown and interruptions are heard
SECONDS_TO_SAVE = 120.0  # what was learned, when it is interrupted: the current block has to end first


def train_exits(
    results: str,
    asked: WhatToTrain,
    device: Device = "auto",
    display: Display | None = None,
    look: Callable[[SweepConfig, int], ModelFacts] = look_at_model,
) -> Card:
    """Train what is asked for on the `normal` texts of the finished sweep in `results`, and write the artefact.

    `look` is as in `run_sweep`. Returns the artefact's card. A damaged artefact is set aside and trained again.

    Raises `UsageError` for what can't be used, and `SweepStopped` or `OSError` when going on would only fail.
    """
    display = display or open_display()
    folder = _folder(asked.out)
    sweep = replace(read_finished(location_for_all(results, "the folder"), ["prompt_id"]), name=shown(results))
    refuse_settings(sweep, asked)
    texts = read_texts(sweep.store)
    if asked.prompts:
        grid = {**NO_EXITS, "prompts": tuple(asked.prompts)}
        config = SweepConfig.model_validate({**sweep.manifest.config, **grid, "observe": "none"})
        summary = run_sweep(config, folder / TEXTS_FOLDER, device=device, display=display, look=look)
        texts = distinct([*texts, *read_texts(open_store(summary.out))])
    plan = make_training_plan(sweep, replace(asked, out=str(folder)), texts, look)
    try:
        if is_finished(plan):
            display.say(f"nothing is left to do: {folder} holds this training's artefact")
            return Card.model_validate_json((folder / CARD).read_bytes())
    except DamagedArtefactError as damaged:
        aside = open_store(folder).set_aside(CARD, *FILES)
        display.say(f"{damaged}: it is trained again; what is left of it is in {folder}/{aside}")
    return _train(plan, device, display)


def _folder(out: str) -> Path:
    """Raises `UsageError` for what is no folder that can be written to."""
    if "://" in out:
        raise UsageError(f"--out {shown(out)} is a URI: give a folder, which models are loaded from later")
    folder = Path(location_for_all(str(Path(out).expanduser())))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file: give a folder")
    store = open_store(folder)
    refuse_inside(store, f"--out {out}", *FOR_LEARNED)
    store.probe()
    return folder


@dataclass(frozen=True)
class Advanced:
    """How far a training is; losses are the latest ones, in nats, if there are any."""

    done: bool
    share: float
    tokens: int
    loss: float | None
    held_out_loss: float | None


class TrainingWork(Work):
    """One training, which resumes inside what it has learned."""

    doing, if_memory_is_short = "training", "lower --tokens-per-step"

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan, data = plan, plan.data
        self.opening = (
            f"training {plan.settings.what} on {counted(data['n_tokens'], 'token')} of "
            f"{counted(data['n_prompts'], 'prompt')}, {counted(data['n_held_out_prompts'], 'prompt')} held out"
        )

    def load(self, device: str, memory_share: float) -> Sequence[str]:
        """Load the model and, if the training began before, what it has learned.

        Raises `UsageError` if the model can't be loaded, or the folder can't be seen from here.
        """
        import torch

        from eexit.decode.learned_exits import load_readout
        from eexit.model.decoder import Decoder
        from eexit.model.loading import load_model_and_tokenizer
        from eexit.training.loop import Training
        from eexit.training.setup import Setup
        from eexit.training.trainers import TRAINERS

        plan = self._plan
        if not plan.folder.is_dir():
            raise UsageError(
                f"node {ray.util.get_node_ip_address()} does not see {plan.folder}: give --out a folder that all "
                "nodes share"
            )
        torch.manual_seed(plan.settings.seed)
        model, _ = load_model_and_tokenizer(plan.config, device)
        model.requires_grad_(False)
        decoder = Decoder(model)
        readout = load_readout(plan.config, plan.settings.layers, decoder)
        setup = Setup(model, decoder, plan.settings, readout, plan.learn)
        trainer = TRAINERS[plan.settings.what](setup)
        self._training = Training(trainer, plan)
        n_before = self.reached().tokens
        return [f"{counted(n_before, 'token')} were learned from before: going on"] if n_before else []

    def advance(self, seconds: float) -> Advanced:
        """Train for about so long: on one block of texts at least."""
        self._training.advance(seconds)
        return self.reached()

    def save(self) -> None:
        """Save what was learned so far."""
        self._training.save()

    def finish(self) -> dict[str, Any]:
        """Measure what was learned on held-out texts, and write the artefact; returns its card."""
        return self._training.finish().model_dump(mode="json")

    def reached(self) -> Advanced:
        training = self._training
        losses = {
            name: next((row[name] for row in reversed(training.reached.progress) if row[name] is not None), None)
            for name in ("loss", "held_out_loss")
        }
        return Advanced(training.done, training.share, training.reached.tokens, **losses)


def _train(plan: TrainingPlan, device: str, display: Display) -> Card:
    plan.folder.mkdir(parents=True, exist_ok=True)
    with own_actor(TrainingWork(plan), device, display) as actor:
        what, advanced = plan.settings.what, actor.call("reached")
        with display:
            try:
                while not advanced.done:
                    display.show(_progress(what, advanced))
                    advanced = actor.call("advance", SECONDS_PER_CALL)
            except KeyboardInterrupt:
                _save(actor, display)
                raise
            actor.call("save")
            display.say("learned; measuring on held-out texts, which may take minutes")
            display.show(replace(_progress("measuring", advanced), with_rate=False, open_ended=True))
            card: Mapping[str, Any] = actor.call("finish")
            display.show(_progress("done", advanced), last=True)
    return Card.model_validate(card)


def _progress(doing: str, advanced: Advanced) -> Progress:
    figures = {"loss": advanced.loss, "held out": advanced.held_out_loss}
    losses = [f"{name} {value:.3f}" for name, value in figures.items() if value is not None]
    share = advanced.share
    return Progress(" · ".join([doing, *losses]), advanced.tokens, share, share > 0, with_rate=True)


def _save(actor: OwnActor, display: Display) -> None:
    """Save what was learned until the interruption; if that fails, what was saved last stays."""
    display.say("saving what was learned")
    with suppress(RayError):  # a call that takes too long raises one of these too
        ray.get(actor.start("save"), timeout=SECONDS_TO_SAVE)
