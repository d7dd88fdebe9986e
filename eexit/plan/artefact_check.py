"""Checks that the artefacts of a sweep are unchanged since its planning, and that they fit its model."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from eexit.errors import UsageError
from eexit.method.custom_manifest import refuse_changed
from eexit.model.sources import MODEL_CONFIG
from eexit.plan.artefacts import ADAPTER, FLAGS, GATE, TUNED_LENS, ArtefactCard, locations_of, read_card
from eexit.plan.configuration import EarlyExit
from eexit.plan.runs import configurations
from eexit.plan.sweep_config import SweepConfig


def cards_of(config: SweepConfig) -> dict[str, ArtefactCard]:
    """Return a sweep's cards by role. Raises `UsageError` if an artefact is unusable or has changed since planning."""
    cards = {role: read_card(location, role) for role, location in locations_of(config.__dict__).items()}
    for role, card in cards.items():
        if config.digests.get(role) != card.digest:
            raise UsageError(
                f"{FLAGS[role]} {getattr(config, role)} was trained anew since this sweep was planned: plan another"
            )
    return cards


def refuse_misfit(config: SweepConfig, model: Mapping[str, Any], layers: Sequence[int]) -> None:
    """Raise `UsageError` for an artefact of another model or without one of these layers, or a gate of other rules."""
    for role, card in cards_of(config).items():
        if role == ADAPTER:  # checked where it is merged
            continue
        name = f"{FLAGS[role]} {getattr(config, role)}"
        if card.what == TUNED_LENS:
            _refuse_other_lens(card, name, model)
            continue
        identity = "digest" if card.model.get("digest") else "name"
        for fact in (identity, "revision", "n_layers"):
            if card.model.get(fact) != model.get(fact):
                raise UsageError(
                    f"{name} was trained for model {card.model.get('name')}, not for this {model.get('name')} "
                    f"(another {fact}): train it for this model"
                )
        missing = [layer for layer in layers if layer not in card.layers]
        if missing:
            trained = " ".join(map(str, card.layers))
            raise UsageError(
                f"{name} was trained for layers {trained}, not for {missing[0]}: give --exit-layers of these"
            )
        if role == GATE:
            _refuse_other_rules(config, name, card.settings["rules"])
            refuse_changed([each for each in card.settings.get("own", ()) if each["name"] in config.exits], name)


def _refuse_other_lens(card: ArtefactCard, name: str, model: Mapping[str, Any]) -> None:
    """Raise `UsageError` for a tuned lens of a model with another name or number of layers; folders may differ."""
    base, ours = (str(each["name"]) for each in (card.model, model))
    if base and PurePath(base).name.lower() != PurePath(ours).name.lower():
        raise UsageError(
            f"{name} was tuned for model {base}, not for this {ours} (another name): give the lens of this model or, "
            f"if it is the same one, its name as base_model_name_or_path in {MODEL_CONFIG} of the lens"
        )
    if card.model["n_layers"] != model["n_layers"]:
        raise UsageError(f"{name} has {card.model['n_layers']} layers, and model {ours} has {model['n_layers']}")


def _refuse_other_rules(config: SweepConfig, name: str, trained: Sequence[str]) -> None:
    gated = {each.gated_rule for each in configurations(config) if isinstance(each, EarlyExit) and each.gate}
    if missing := sorted(gated - {*trained}):
        raise UsageError(
            f"{name} was trained for {', '.join(trained)}, not for {missing[0]}: train one for it, with "
            f"--rules {missing[0].replace('/', '=')}"
        )
