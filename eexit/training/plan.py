"""The plan of a training on a finished sweep: its texts and options, and a check of its folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from eexit.errors import UsageError
from eexit.method.rules import ONLINE
from eexit.output.text import did_you_mean, flag
from eexit.plan.artefact_check import refuse_misfit
from eexit.plan.artefacts import ADAPTER, CARD, READOUT, WEIGHTS, ArtefactCard, damage, parse_card
from eexit.plan.configuration import NORMAL
from eexit.plan.hashes import checksum
from eexit.plan.model_inspection import ModelFacts
from eexit.plan.sweep_config import NO_EXITS, Prompt, SweepConfig
from eexit.results.finished_sweep import FinishedSweep, refuse_changed_model
from eexit.results.store.manifest import first_difference, identity_of
from eexit.training.texts import TrainingText, n_tokens
from eexit.training.trainer_inputs import WAYS, TrainingOptions, rule_and_parameter
from eexit.training.training_checkpoint import read_saved

OF_COMMAND: Final = ("sweep", "flags", "quantize")  # values of a card for printed commands; paths may change


@dataclass(frozen=True)
class TrainArgs:
    """Flags of `eexit train`."""

    what: str
    out: str  # the folder of the artefact
    prompts: Sequence[Prompt] = ()  # further prompts, whose texts are generated first
    options: Mapping[str, Any] = field(default_factory=dict)  # layers, and those of `WAYS`
    flags: Sequence[str] = ()  # further ones as given, for the command that trains it again


@dataclass(frozen=True)
class TrainingPlan:
    """A training: `config` has the model and its readout; `identity` determines the result and is as in JSON."""

    config: SweepConfig
    model: Mapping[str, Any]  # a `ModelDescription`
    options: TrainingOptions
    learn: Sequence[TrainingText]
    held_out: Sequence[TrainingText]
    data: Mapping[str, Any]  # for the card
    folder: Path
    dtype_asked: str = ""  # the sweep's

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self.options.as_dict(), self.model, self.data)


def _identity(settings: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: value for name, value in data.items() if name not in OF_COMMAND}
    return {"settings": dict(settings), "model": identity_of(model), "data": texts}


def make_training_plan(
    sweep: FinishedSweep, asked: TrainArgs, texts: Sequence[TrainingText],
    inspect: Callable[[SweepConfig, int], ModelFacts],
) -> TrainingPlan:  # fmt: skip
    """Return the plan of a training on these texts; `inspect` returns the facts of a configuration's model.

    `refuse_options` has accepted the options. Raise `UsageError` if the texts or the model can't be used.
    """
    given = asked.options
    learn, held_out = split(texts, sweep.name)
    config = _config(sweep, given)
    model, layers, _ = inspect(config, 1)
    refuse_changed_model(sweep, model)
    refuse_misfit(config, model, layers)
    readout, rules = config.digests.get(READOUT, config.readout), tuple(given.get("rules", ()))
    options = TrainingOptions(asked.what, tuple(layers), readout, rules, config.digests.get(ADAPTER))
    every = [[text.prompt_token_ids, text.token_ids, text.held_out, text.chooses] for text in (*learn, *held_out)]
    data = {
        "sweep": sweep.name, "flags": [*asked.flags], **({"quantize": config.quantize} if config.quantize else {}),
        "n_prompts": len(learn), "n_tokens": n_tokens(learn),
        "n_held_out_prompts": len(held_out), "n_held_out_tokens": n_tokens(held_out), "texts": checksum(every),
    }  # fmt: skip
    return TrainingPlan(config, model, options, learn, held_out, data, Path(asked.out), sweep.manifest.dtype_asked)


def refuse_options(asked: TrainArgs) -> None:
    """Raise `UsageError` if `asked` names nothing that can be trained, or an option that it does not take."""
    what, given = asked.what, asked.options
    if what not in WAYS:
        meant = did_you_mean(what, WAYS, f"choose from {', '.join(WAYS)}")
        raise UsageError(f"--what {what} can't be trained: {meant}")
    for name in given:
        if name not in ("layers", "adapter", *WAYS[what].takes):
            kinds = [kind for kind, way in WAYS.items() if name in way.takes]
            raise UsageError(f"{flag(name)} is for {' and '.join(kinds)}, and --what is {what}: leave it out")
    if what == "gate":
        _refuse_rules(given.get("rules", ()))


def _refuse_rules(rules: Sequence[str]) -> None:
    """Raise `UsageError` for rules that no gate can be trained for."""
    if not rules:
        raise UsageError("a gate is for rules: give --rules, as in --rules confidence=0.9,0.97 entropy=0.1")
    for name, _ in map(rule_and_parameter, rules):
        if name not in ONLINE or not ONLINE[name].can_be_gated:
            can = ", ".join(name for name, rule in ONLINE.items() if rule.given and rule.can_be_gated)
            raise UsageError(f"--rules {name}: a gate saves reads of single layers, which these rules need: {can}")
        ONLINE[name].refuse_if_not_given()


def split(texts: Sequence[TrainingText], name: str) -> tuple[list[TrainingText], list[TrainingText]]:
    """Return the training texts (with validation texts) and the held-out texts.

    Texts without decided tokens are left out. Raise `UsageError` if there are too few prompts.
    """
    usable = [text for text in texts if len(text.token_ids) > 1]  # the first token has no exit
    if not usable:
        raise UsageError(f"{name} has no {NORMAL} runs with texts to learn from: run a sweep with --modes {NORMAL}")
    learn = [text for text in usable if not text.held_out]
    held_out = [text for text in usable if text.held_out]
    if not held_out or len({text.chooses for text in learn}) < 2:
        raise UsageError(
            f"{name} has too few prompts: of its {len(usable)} texts {len(held_out)} are held out, and "
            f"{sum(text.chooses for text in learn)} of the others are for validation; each part needs one at least; "
            "give more with --prompts"
        )
    return learn, held_out


class DamagedArtefactError(UsageError):
    """Error for a damaged artefact that is not provably another training's; the message names the damage."""


def is_finished(plan: TrainingPlan) -> bool:
    """Return True if the folder holds this training's artefact, undamaged.

    Raise `DamagedArtefactError` if it is damaged, and `UsageError` if the folder holds another training.
    """
    card = _read_card(plan.folder / CARD)
    if card:
        _refuse(plan, _identity(card.settings, card.model, card.data))
        if reason := damage(plan.folder, card):
            raise DamagedArtefactError(f"{plan.folder} holds this training's artefact, but {reason}")
        return True
    if saved := read_saved(plan.folder):
        _refuse(plan, saved.identity)
    elif left := [name for name in (CARD, WEIGHTS) if (plan.folder / name).exists()]:
        reason = f"a {CARD} that can't be read" if left[0] == CARD else f"{left[0]} without a {CARD}"
        raise DamagedArtefactError(f"{plan.folder} holds {reason}")
    return False


def _read_card(path: Path) -> ArtefactCard | None:
    """Return the card; None if it is missing or damaged. Raise `UsageError` if it has another version's format."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        return parse_card(content)
    except ValueError:
        version = None
        with suppress(ValueError, AttributeError):
            version = json.loads(content).get("format")
        if isinstance(version, int) and version != ArtefactCard.model_fields["format"].default:
            raise UsageError(f"{path} has format {version}, of another version: choose another --out") from None
        return None


def _refuse(plan: TrainingPlan, stored: Mapping[str, Any]) -> None:
    if difference := first_difference(stored, json.loads(json.dumps(plan.identity))):
        raise UsageError(
            f"--out {plan.folder} holds another training ({difference}): choose another --out, or remove that folder"
        )


def _config(sweep: FinishedSweep, given: Mapping[str, Any]) -> SweepConfig:
    """Return the sweep's configuration without its grid, and with the layers, readout and adapter of the training."""
    config = sweep.config(with_exits=False)
    grid = {**NO_EXITS, "prompts": config.prompts[:1]}
    reading = {
        "exit_layers": tuple(given.get("layers") or sweep.manifest.exitable_layers),
        "readout": given.get("readout") or "lens",
        "adapter": given.get("adapter"),
    }
    same = {name: value for name, value in dict(config).items() if name not in ("digests", "adapter")}
    try:
        return SweepConfig.model_validate({**same, **grid, **reading})
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(str(problem.get("ctx", {}).get("error", problem["msg"]))) from error
