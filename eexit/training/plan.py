"""What is trained on a finished sweep: its texts, the options, and whether the folder for it is free."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eexit.errors import UsageError
from eexit.method.rules import ONLINE
from eexit.output.text import did_you_mean, flag
from eexit.plan.artefact_fit import refuse_misfit
from eexit.plan.artefacts import CARD, FILES, READOUT, Card, damage
from eexit.plan.config import NO_EXITS, Prompt, SweepConfig
from eexit.plan.configuration import NORMAL
from eexit.plan.hashes import checksum
from eexit.plan.model_facts import ModelFacts, aside
from eexit.results.store.finished_sweep import FinishedSweep, refuse_changed_model
from eexit.results.store.manifest import first_difference
from eexit.training.saving import read_saved
from eexit.training.setup import (
    ALL_HAVE,
    AUTO,
    LAYERS_LOSS,
    LOSSES,
    OF_LORA,
    STATE_FORMS,
    WAYS,
    TrainingOptions,
    rule_and_parameter,
)  # fmt: skip
from eexit.training.texts import Text, n_tokens, thinned


@dataclass(frozen=True)
class WhatToTrain:
    """The flags of `jobs/train.py`. With `one_in`, it learns from one text in so many, for comparison, and is measured
    on the same held-out ones.
    """

    what: str
    out: str  # the folder of the artefact
    prompts: Sequence[Prompt] = ()  # more of them, whose texts are generated first
    one_in: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of `eexit.training.setup.TrainingOptions`


@dataclass(frozen=True)
class TrainingPlan:
    """A training: `config` says which model, read how, and `identity` all that decides the result, as in JSON."""

    config: SweepConfig
    model: Mapping[str, Any]  # a `ModelDescription`
    options: TrainingOptions
    learn: Sequence[Text]
    held_out: Sequence[Text]
    data: Mapping[str, Any]  # of the card
    folder: Path
    dtype_asked: str = ""  # of the sweep

    @property
    def identity(self) -> dict[str, Any]:
        data = {name: value for name, value in self.data.items() if name != "sweep"}  # which may lie elsewhere
        return {"settings": self.options.as_dict(), "model": dict(self.model), "data": data}


def make_training_plan(
    sweep: FinishedSweep, asked: WhatToTrain, texts: Sequence[Text], look: Callable[[SweepConfig, int], ModelFacts]
) -> TrainingPlan:
    """The training on these texts, with options that `refuse_options` let pass.

    Raises `UsageError` for what can't be used.
    """
    given = asked.options
    learn, held_out = split(thinned(texts, asked.one_in), sweep.name)
    if asked.what == "tuned" and given.get("most_tokens", math.inf) <= n_tokens(learn):
        raise UsageError(
            f"--most-tokens must be above {n_tokens(learn)}, the tokens of the texts, got {given['most_tokens']}: "
            "the first pass over them only finds where gradients start"
        )
    config = _config(sweep, given.get("layers"), given.get("readout") or "lens")
    model, layers, _ = look(config, 1)
    refuse_changed_model(sweep, model)
    refuse_misfit(config, model, layers)
    others = {name: value for name, value in given.items() if name not in ("layers", "readout")}
    readout = config.digests.get(READOUT, config.readout)
    options = TrainingOptions(asked.what, tuple(layers), readout, **others).with_defaults()
    every = [[text.prompt_token_ids, text.token_ids, text.held_out, text.chooses] for text in (*learn, *held_out)]
    data = {
        "sweep": sweep.name,
        "n_prompts": len(learn),
        "n_tokens": n_tokens(learn),
        "n_held_out_prompts": len(held_out),
        "n_held_out_tokens": n_tokens(held_out),
        "texts": checksum(every),
    }
    return TrainingPlan(config, model, options, learn, held_out, data, Path(asked.out), sweep.manifest.dtype_asked)


def refuse_options(sweep: FinishedSweep, asked: WhatToTrain) -> None:
    """Raises `UsageError` for what can't be trained, has no such setting, or is no place in the model for an adapter.

    Nothing is loaded for that but the model's configuration.
    """
    what, given = asked.what, asked.options
    if what not in WAYS:
        meant = did_you_mean(what, WAYS, f"choose from {', '.join(WAYS)}")
        raise UsageError(f"--what {what} can't be trained: {meant}")
    for name, value in given.items():
        if name not in (*ALL_HAVE, *WAYS[what].has):
            kinds = [kind for kind, way in WAYS.items() if name in way.has]
            raise UsageError(f"{flag(name)} is for {' and '.join(kinds)}, and --what is {what}: leave it out")
        if isinstance(value, float) and not (0 < value < math.inf or (value == 0 and name == "in_state")):
            raise UsageError(f"{flag(name)} must be a number above 0, got {value:g}")
    if (form := given.get("form")) and form not in STATE_FORMS:
        raise UsageError(f"--form {form} is no form of state maps: choose from {', '.join(STATE_FORMS)}, {AUTO}")
    if what == "gate":
        _refuse_rules(given.get("rules", ()))
    if what == "student" and (quantization := sweep.manifest.model.get("quantization")) is not None:
        raise UsageError(
            f"--what student changes weights, and those of {sweep.name}'s model are quantised ({quantization}): train "
            "it on a sweep without --quantize, or a readout, a probe, a gate or state maps on this one"
        )
    if what == "student":
        _refuse_loss(given)
        if given.get("full") and (small := [name for name in OF_LORA if name in given]):
            raise UsageError(f"{flag(small[0])} is of a low-rank adapter, and --full has none: leave one of both out")
        config = _config(sweep, given.get("layers"), "lens")
        aside(_try_adapter, config, TrainingOptions(what, **{**given, "layers": ()}).with_defaults())


def _refuse_rules(rules: Sequence[str]) -> None:
    """Raises `UsageError` for rules that no gate can be trained for."""
    if not rules:
        raise UsageError("a gate is for rules: give --rules, as in --rules confidence=0.9,0.97 entropy=0.1")
    for name, _ in map(rule_and_parameter, rules):
        if name not in ONLINE or not ONLINE[name].reads or ONLINE[name].compares:
            can = ", ".join(name for name, rule in ONLINE.items() if rule.reads and not rule.compares)
            raise UsageError(f"--rules {name}: a gate saves reads of single layers, which these rules need: {can}")


def _try_adapter(config: SweepConfig, options: TrainingOptions) -> None:
    from eexit.model.loading import model_without_weights
    from eexit.training.student.lora import add_adapter

    add_adapter(model_without_weights(config), options)


def _refuse_loss(given: Mapping[str, Any]) -> None:
    """Raises `UsageError` for a student's loss that is none, and for options that it has no use for."""
    loss = given.get("loss", LAYERS_LOSS)
    if loss not in LOSSES:
        raise UsageError(f"--loss {loss} is not known: choose from {', '.join(LOSSES)}")
    if loss != LAYERS_LOSS and "in_state" in given:
        raise UsageError(f"--in-state is for --loss {LAYERS_LOSS}: with {loss}, all steps are at drawn exits")
    if given.get("in_state", 0) > 1:
        raise UsageError(f"--in-state is a share of the steps, at most 1, got {given['in_state']:g}")


def split(texts: Sequence[Text], name: str) -> tuple[list[Text], list[Text]]:
    """The texts to learn from, and those that are held out. Raises `UsageError` if there are too few prompts."""
    usable = [text for text in texts if len(text.token_ids) > 1]  # the first token has no exit
    if not usable:
        raise UsageError(f"{name} has no {NORMAL} runs with texts to learn from: run a sweep with --modes {NORMAL}")
    learn = [text for text in usable if not text.held_out]
    held_out = [text for text in usable if text.held_out]
    if not held_out or len({text.chooses for text in learn}) < 2:
        raise UsageError(
            f"{name} has too few prompts: of its {len(usable)} texts {len(held_out)} are held out, and "
            f"{sum(text.chooses for text in learn)} of the others choose settings, where each needs one at least; "
            "give more with --prompts"
        )
    return learn, held_out


class DamagedArtefactError(UsageError):
    """The folder holds an artefact that is damaged, and not provably another training's; the message says what is."""


def is_finished(plan: TrainingPlan) -> bool:
    """Whether the folder holds the artefact of this very training, undamaged.

    Raises `DamagedArtefactError` if it is damaged, and `UsageError` if the folder holds something else.
    """
    card = _read_card(plan.folder / CARD)
    if card:
        data = {name: value for name, value in card.data.items() if name != "sweep"}
        asked, finds = plan.options.as_dict(), WAYS[plan.options.what].finds
        options = {name: value for name, value in card.settings.items() if name in asked or name not in finds}
        _refuse(plan, {"settings": options, "model": card.model, "data": data})
        if reason := damage(plan.folder, card):
            raise DamagedArtefactError(f"{plan.folder} holds this training's artefact, but {reason}")
        return True
    if saved := read_saved(plan.folder):
        _refuse(plan, saved.identity)
    elif left := [name for name in (CARD, *FILES) if (plan.folder / name).exists()]:
        reason = f"a {CARD} that can't be read" if left[0] == CARD else f"{left[0]} without a {CARD}"
        raise DamagedArtefactError(f"{plan.folder} holds {reason}")
    return False


def _read_card(path: Path) -> Card | None:
    """The card; None if there is none, or it is damaged. Raises `UsageError` for one of another version."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        return Card.model_validate_json(content)
    except ValidationError:
        version = None
        with suppress(ValueError, AttributeError):
            version = json.loads(content).get("format")
        if isinstance(version, int) and version != Card.model_fields["format"].default:
            raise UsageError(f"{path} has format {version}, of another version: choose another --out") from None
        return None


def _refuse(plan: TrainingPlan, stored: Mapping[str, Any]) -> None:
    if difference := first_difference(stored, json.loads(json.dumps(plan.identity))):
        raise UsageError(
            f"--out {plan.folder} holds another training ({difference}): choose another --out, or remove that folder"
        )


def _config(sweep: FinishedSweep, layers: Sequence[int] | None, readout: str) -> SweepConfig:
    """The sweep's configuration, without its grid, and read as asked."""
    config = sweep.config()
    grid = {**NO_EXITS, "prompts": config.prompts[:1]}
    reading = {"exit_layers": tuple(layers or sweep.manifest.exitable_layers), "readout": readout}
    same = {name: value for name, value in dict(config).items() if name not in ("digests", "adapter")}
    try:
        return SweepConfig.model_validate({**same, **grid, **reading})
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(str(problem.get("ctx", {}).get("error", problem["msg"]))) from error
