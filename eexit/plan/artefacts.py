"""Learned exits on disk: what training leaves in a folder, and whether it may be used.

    card.json                   what was learned, from what data, how good it is on held-out prompts, and checksums
    weights.safetensors         readouts, probes, gates or state maps
    adapter_model.safetensors   an adapter, with adapter_config.json, as peft writes both
    state.safetensors           of a training that has not ended
    texts/                      a sweep: of the texts of more prompts that it learned from

This module does not import torch, so that the command line can refuse a folder before any model is loaded.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eexit.errors import UsageError
from eexit.method.readouts import READOUTS
from eexit.model.file_digests import sha256
from eexit.output.whole_files import write_whole

STATE: Final = "state.safetensors"  # of a training that has not ended

CARD: Final = "card.json"
WEIGHTS: Final = "weights.safetensors"
FILES: Final = (WEIGHTS, "adapter_model.safetensors", "adapter_config.json")  # that a card may vouch for
TEXTS_FOLDER: Final = "texts"

READOUT: Final = "readout"  # what an artefact can be used as: its roles
PROBE: Final = "probe"
ADAPTER: Final = "adapter"
GATE: Final = "gate"
STATE_MAPS: Final = "state"
FLAGS: Final = {role: f"--{role}" for role in (READOUT, PROBE, ADAPTER, GATE, STATE_MAPS)}

Table = list[dict[str, Any]]


class Card(BaseModel):
    """What an artefact is. KLs and losses are in nats; agreement and depth are fractions; tables may be empty.

    `held_out`: layer, readout, agreement with the final layer's likeliest token, median_kl and mean_kl of held-out
    tokens. `trade_off`: what rule kl, or predicted_kl, would do to held-out tokens of given texts at each KL factor,
    and a control that exits as often at each layer whatever the token. `probes`: the Spearman rank correlation with the
    true KL. `calibration`: predicted and true stop chance in ten bins. `exits`: KLs at the student's exits, before and
    after. `learning`: after so many tokens, what each layer of a student says, beside full depth. `gates`: of each
    layer, rule and threshold, the share of tokens that are read, and of exits that are kept. `state`: of each exit
    layer and deeper layer, the share of variance that its map explains. `state_exits`: how many held-out tokens are not
    full depth's, with maps and without. `state_costs`: multiply-adds of a token that leaves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    what: str  # linear, tuned, probe, gate, student or state
    holds: tuple[str, ...]  # roles
    model: dict[str, Any]  # an `eexit.model.loading.ModelDescription`
    dtype_asked: str = ""  # of the sweep; the model has what it became
    layers: tuple[int, ...]
    readout: str  # that layers were read through: a name, or the digest of a learned one
    data: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    held_out: Table = []
    trade_off: Table = []
    probes: Table = []
    calibration: Table = []
    exits: Table = []
    learning: Table = []
    gates: Table = []
    state: Table = []
    state_exits: Table = []
    state_costs: Table = []
    progress: Table = []
    versions: dict[str, str | None] = {}
    made: str = ""  # ISO 8601, UTC
    seconds: float = 0.0
    files: dict[str, str]  # SHA-256 by name

    @property
    def digest(self) -> str:
        """Of what changes results: the weights, and what they are for."""
        model = self.model.get("digest") or [self.model.get("name"), self.model.get("revision")]
        content = [self.what, self.holds, self.layers, model, self.readout, sorted(self.files.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_card(folder: Path, card: Card) -> None:
    """Write it in one step, after the files that it vouches for. Raises `OSError`."""
    write_whole(folder / CARD, card.model_dump_json(indent=1) + "\n")


def read_card(location: str, role: str) -> Card:
    """The card of an artefact that is to be used in this role, once its files are found undamaged.

    Raises `UsageError` if it can't be used; if it is damaged, that names the command that repairs it.
    """
    folder, name = Path(location).expanduser(), f"{FLAGS[role]} {location}"
    if not folder.is_dir():
        names = f"{', '.join(READOUTS)} or " if role == READOUT else ""
        raise UsageError(f"{name} is not a folder that is there: give {names}one that jobs/train.py made")
    if not (folder / CARD).is_file():
        raise UsageError(
            f"{name} has no {CARD}: it is no learned exits' folder, or its training has not ended; the command that "
            "began it goes on with it"
        )
    try:
        card = Card.model_validate_json((folder / CARD).read_bytes())
    except (ValidationError, OSError) as error:
        raise UsageError(
            f"{name} has a {CARD} that is damaged, or of another version: train it again, by the command that made it: "
            f"python jobs/train.py … --out {shlex.quote(location)}"
        ) from error
    if role not in card.holds:
        way_out = " or ".join(f"{FLAGS[held]} {location}" for held in card.holds)
        raise UsageError(f"{name} holds no {role}, since it was trained with --what {card.what}: give {way_out}")
    if reason := damage(folder, card):
        raise UsageError(f"{name} is damaged: {reason}; train it again: {training_command(card, location)}")
    return card


def damage(folder: Path, card: Card) -> str | None:
    """What is wrong with the files that a card vouches for; None if they are those that were trained."""
    if not any(Path(file).name == WEIGHTS for file in card.files):
        return f"{CARD} does not name {WEIGHTS}"
    for file, digest in card.files.items():
        if not (folder / file).is_file():
            return f"{file} is missing"
        if sha256([folder / file]) != digest:
            return f"{file} is not the file that was trained"
    return None


def training_command(card: Card, location: str) -> str:
    """The command that trains the artefact of this card again.

    FOLDER stands for a learned readout, of which a card knows the digest alone, and FILE for further prompts.
    """
    options = {("exit_layers" if name == "layers" else name): value for name, value in card.settings.items()}
    if "readout" in options and options["readout"] not in READOUTS:
        options["readout"] = "FOLDER"
    if Path(location, TEXTS_FOLDER).expanduser().is_dir():
        options["prompts"] = "FILE"
    words = ["python", "jobs/train.py", str(card.data.get("sweep", "RESULTS"))]
    for name, given in {"what": card.what, "out": location, **options}.items():
        values = given if isinstance(given, list) else [given]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def locations_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The folders of the artefacts that a sweep of this configuration uses, by role."""
    given = {role: config.get(role) for role in FLAGS}
    return {
        role: location for role, location in given.items() if isinstance(location, str) and location not in READOUTS
    }


def digests_of(locations: Mapping[str, str], readout: str) -> dict[str, str]:
    """The digests of artefacts by role, which belong together. Raises `UsageError`."""
    cards = {role: read_card(location, role) for role, location in locations.items()}
    digests = {role: card.digest for role, card in cards.items()}
    for role in (PROBE, GATE):
        if role in cards:
            _refuse_other_readout(cards[role], f"{FLAGS[role]} {locations[role]}", readout, digests)
    if PROBE in cards:
        _refuse_other_student(cards[PROBE], locations[PROBE], digests, cards.get(ADAPTER))
    for role in (GATE, STATE_MAPS):
        if role in cards and ADAPTER in cards:
            name = f"{FLAGS[role]} {locations[role]}"
            raise UsageError(f"{name} was trained on the model's own streams: leave it or --adapter out")
    return digests


def _refuse_other_readout(card: Card, name: str, readout: str, digests: Mapping[str, str]) -> None:
    """Raises `UsageError` if what is predicted is of layers that are read in another way."""
    if card.readout != digests.get(READOUT, readout):
        trained_on = card.readout if len(card.readout) < len(card.digest) else "a learned one"
        predicts = "KLs" if PROBE in card.holds else "exits"
        raise UsageError(
            f"{name} predicts {predicts} of readout {trained_on}, not of {readout}: "
            "give --readout as it was trained with"
        )


def _refuse_other_student(probe: Card, location: str, digests: Mapping[str, str], student: Card | None) -> None:
    """Raises `UsageError` if a probe predicts the KLs of another student."""
    if ADAPTER in probe.holds and digests.get(ADAPTER) != probe.digest:
        raise UsageError(f"--probe {location} belongs to a student: give --adapter {location} too")
    if ADAPTER not in probe.holds and student:
        way_out = "give --probe of --adapter's folder" if PROBE in student.holds else "leave it or --adapter out"
        raise UsageError(f"--probe {location} was trained on the base model's streams: {way_out}")
