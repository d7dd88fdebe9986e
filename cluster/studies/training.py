"""Training of exits on the texts of a finished sweep: `train_exits`, for `eexit train`.

One actor has a node's CPUs, or a GPU, to itself. Its sums are saved regularly and on interruption, and the same call
resumes from them. It returns numbers and text only, so that the driver need not import torch.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import ray
from ray.exceptions import RayError

from cluster.studies.actors import exclusive_actor
from cluster.sweep import run_job
from cluster.sweep_job import SweepJob, location_for_all
from eexit.errors import UsageError
from eexit.output.display import open_display
from eexit.output.locations import redact
from eexit.output.progress import Display
from eexit.output.text import pluralize
from eexit.plan.artefacts import CARD, TEXTS_FOLDER, WEIGHTS, ArtefactCard, is_of_training, parse_card
from eexit.plan.model_inspection import ModelFacts, inspect_model
from eexit.plan.sweep_config import NO_EXITS, SweepConfig
from eexit.results.finished_sweep import read_finished
from eexit.results.owned_folders import FOR_LEARNED, refuse_inside
from eexit.results.store.folder import open_store
from eexit.studies.study import ModelJob
from eexit.sweeps.arguments import Device
from eexit.training.plan import (
    DamagedArtefactError,
    TrainArgs,
    TrainingPlan,
    is_finished,
    make_training_plan,
    refuse_options,
)
from eexit.training.texts import distinct, read_texts
from eexit.training.trainer_inputs import rule_and_parameter

SECONDS_PER_CALL = 2.0  # of the actor; between calls, progress is shown and interruptions are handled
SECONDS_TO_SAVE = 120.0  # on interruption: the current block has to end first


def train_exits(
    results: str,
    asked: TrainArgs,
    device: Device = "auto",
    display: Display | None = None,
    inspect: Callable[[SweepConfig, int], ModelFacts] = inspect_model,
    trusts_code: bool = False,
) -> ArtefactCard:
    """Train on the `normal` texts of the finished sweep in `results`, write the artefact and return its card.

    A damaged artefact is set aside and trained again. `inspect` is as in `run_job`, and `trusts_code` as in
    `run_study`. Raise `UsageError` for bad input, and `SweepStopped` or `OSError` when all further work would fail.
    """
    display = display or open_display()
    folder = _folder(asked.out)
    found = read_finished(location_for_all(results, "the folder"), ["prompt_id"], trusts_code=trusts_code)
    sweep = replace(found, name=redact(results))
    refuse_options(asked)
    texts = read_texts(sweep.store)
    if asked.prompts:
        grid = {**NO_EXITS, "prompts": tuple(asked.prompts)}
        config = SweepConfig.model_validate(
            {**dict(sweep.config(with_exits=False)), **grid, "record_full_depth": "none"}
        )
        job = SweepJob(config=config, out=str(folder / TEXTS_FOLDER), device=device)
        summary = run_job(job, display, inspect=inspect)
        texts = distinct([*texts, *read_texts(open_store(summary.out))])
    plan = make_training_plan(sweep, replace(asked, out=str(folder)), texts, inspect)
    try:
        if is_finished(plan):
            display.say(f"nothing is left to do: {folder} holds this training's artefact")
            return parse_card((folder / CARD).read_bytes())
    except DamagedArtefactError as damaged:
        aside = open_store(folder).set_aside(CARD, WEIGHTS)
        display.say(f"{damaged}: it is trained again; what is left of it is in {folder}/{aside}")
    return _train(plan, device, display)


def _folder(out: str) -> Path:
    """Return the artefact's folder. Raise `UsageError` if it can't be written to, or holds another program's card."""
    if "://" in out:
        raise UsageError(f"--out {redact(out)} is a URI: give a folder, which models are loaded from later")
    folder = Path(location_for_all(str(Path(out).expanduser())))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file: give a folder")
    if (folder / CARD).is_file() and not is_of_training((folder / CARD).read_bytes()):
        raise UsageError(f"{folder / CARD} is no training's: choose another --out, or move it elsewhere")
    store = open_store(folder)
    refuse_inside(store, f"--out {out}", *FOR_LEARNED)
    store.probe()
    return folder


class TrainingJob(ModelJob):
    """One training, which can resume; once loaded, its `training` is an `eexit.training.loop.Training`."""

    doing, oom_hint = "training", "give --device cpu"

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan, data = plan, plan.data
        self.opening = (
            f"training {plan.options.what} on {pluralize(data['n_tokens'], 'token')} of "
            f"{pluralize(data['n_prompts'], 'prompt')}, {pluralize(data['n_held_out_prompts'], 'prompt')} held out"
        )

    @property
    def exits(self) -> frozenset[str]:
        return frozenset(name for name, _ in map(rule_and_parameter, self._plan.options.rules))

    def load(self, device: str) -> Sequence[str]:
        """Load the model and, if an earlier call saved sums, these sums; return remarks on the sums.

        Raise `UsageError` if the model can't be loaded, or the folder does not exist on this node.
        """
        from eexit.model.decoders import build_decoders
        from eexit.model.loading import load_model_and_tokenizer
        from eexit.sweeps.load_artefacts import load_readout
        from eexit.training.loop import Training
        from eexit.training.trainer_inputs import TrainerInputs
        from eexit.training.trainers import TRAINERS

        plan = self._plan
        if not plan.folder.is_dir():
            raise UsageError(
                f"node {ray.util.get_node_ip_address()} has no {plan.folder}: give --out a folder that all nodes share"
            )
        model, _ = load_model_and_tokenizer(plan.config, device)
        decoder = build_decoders(model.requires_grad_(False), plan.config.adapter, packed=False).early_exit
        readout = load_readout(plan.config, plan.options.layers, decoder)
        setup = TrainerInputs(decoder, plan.options, readout, plan.learn)
        trainer = TRAINERS[plan.options.what](setup)
        self.training = Training(trainer, plan)
        n_before = self.training.reached.tokens
        return [f"{pluralize(n_before, 'token')} are in the saved moments: resuming"] if n_before else []


def _train(plan: TrainingPlan, device: str, display: Display) -> ArtefactCard:
    plan.folder.mkdir(parents=True, exist_ok=True)
    with exclusive_actor(TrainingJob(plan), device, display) as actor:
        is_done, progress = actor.call("training.status")
        with display:
            try:
                while not is_done:
                    display.show(progress)
                    is_done, progress = actor.call("training.advance", SECONDS_PER_CALL)
            except KeyboardInterrupt:
                display.say("saving the artefact")
                with suppress(RayError):  # if saving fails or takes too long, the last state stays
                    ray.get(actor.handle.call.remote("training.save"), timeout=SECONDS_TO_SAVE)
                raise
            actor.call("training.save")
            display.say("fitted; measuring on held-out texts, which may take minutes")
            measuring = progress.doing.replace(plan.options.what, "measuring", 1)
            display.show(replace(progress, doing=measuring, with_rate=False, open_ended=True))
            card: ArtefactCard = actor.call("training.finish")
            done = progress.doing.replace(plan.options.what, "done", 1)
            display.show(replace(progress, doing=done), last=True)
    return card
