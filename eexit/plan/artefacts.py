"""Artefacts on disk: the folder that a training writes, and the checks before its use.

    card.json                   training, data, results on held-out prompts, and checksums
    weights.safetensors         readouts, probes, gates or KV maps
    state.safetensors           checkpoint of an unfinished training
    texts/                      a sweep: the texts of further training prompts

An adapter has no card: its folder was saved by peft, or by transformers as a fine-tuned model. A tuned lens has none
either: package tuned-lens saves this readout as `config.json` and `params.pt`.

This module does not import torch, so that the command line can refuse a folder before any model is loaded.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from eexit.errors import UsageError
from eexit.method.readouts import READOUTS
from eexit.model.sources import MODEL_CONFIG, PEFT_FILES, file_digest, is_peft, sha256
from eexit.output.atomic_files import write_atomic
from eexit.output.text import flag

STATE: Final = "state.safetensors"  # checkpoint of an unfinished training

CARD: Final = "card.json"
WEIGHTS: Final = "weights.safetensors"
TEXTS_FOLDER: Final = "texts"
TUNED_LENS: Final = "tuned-lens"  # kind of artefact
LENS_FILES: Final = (MODEL_CONFIG, "params.pt")  # of a tuned lens

READOUT: Final = "readout"  # roles in which an artefact can be used
PROBE: Final = "probe"
ADAPTER: Final = "adapter"
GATE: Final = "gate"
KV_MAPS: Final = "kv_maps"
OF_SOME: Final = (PROBE, GATE, KV_MAPS)  # roles that only some configurations depend on
FLAGS: Final = {role: flag(role) for role in (READOUT, PROBE, ADAPTER, GATE, KV_MAPS)}


class CardRow(BaseModel):
    """Row of a card's table: `n` held-out tokens at an exitable layer, with shares from 0 to 1.

    `series` is the readout, rule or mode that is measured. `at` is a gate's threshold or a probe's KL factor.

    - Readouts: `agreement` is the share of tokens for which the layer predicts the full-depth token.
    - Gates, probes: `taken` is the share of tokens that pass the gate or exit. `kept` is the share of the rule's own
      exits among them.
    - KV maps: tokens exit at the first exitable layer from `layer` on that predicts the full-depth token. `taken` is
      their share. `agreement` is the share of all tokens that equal the full-depth token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    series: str
    at: float | None = None
    n: int
    taken: float | None = None
    kept: float | None = None
    agreement: float | None = None


class ArtefactCard(BaseModel):
    """Metadata of an artefact: its kind, its model and layers, its training data, and held-out results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[3] = 3
    what: str  # linear, probe, gate, kv-maps or tuned-lens
    holds: tuple[str, ...]  # roles
    model: dict[str, Any]  # a dumped `eexit.plan.model_description.ModelDescription`
    dtype_asked: str = ""  # the sweep's --dtype; `model` has the resolved one
    layers: tuple[int, ...]
    readout: str  # its name, or the digest of a trained one
    adapter: str | None = None  # digest of the adapter that the hidden states are from; None: the model itself
    data: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    table: list[CardRow] = []
    versions: dict[str, str | None] = {}
    made: str = ""  # ISO 8601, UTC
    seconds: float = 0.0
    files: dict[str, str]  # SHA-256 by file name
    checksum: str = ""  # of all other fields, in the file

    @property
    def digest(self) -> str:
        """Hash of everything that changes results.

        It covers the artefact's files, kind and layers, and the model, readout and adapter that it was trained for.
        """
        model = self.model.get("digest") or [self.model.get("name"), self.model.get("revision")]
        content = [self.what, self.holds, self.layers, model, self.readout, self.adapter, sorted(self.files.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def sum_up(self) -> str:
        """Return the checksum of all other fields."""
        content = self.model_dump(mode="json", exclude={"checksum"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_card(folder: Path, card: ArtefactCard) -> None:
    """Write the card with its checksum in one step, after the files that it lists. Raises `OSError`."""
    sealed = card.model_copy(update={"checksum": card.sum_up()})
    write_atomic(folder / CARD, sealed.model_dump_json(indent=1) + "\n")


def is_of_training(content: bytes) -> bool:
    """Return True if a training wrote this card, damaged or not; other programs also write a card.json."""
    return b'"holds"' in content


def parse_card(content: bytes) -> ArtefactCard:
    """Return the card in a file's content. Raises `ValueError` if it is damaged or of another version."""
    card = ArtefactCard.model_validate_json(content)
    if card.checksum != card.sum_up():
        raise ValueError("it does not have its checksum")
    return card


def read_card(location: str, role: str) -> ArtefactCard:
    """Return the card of an artefact for use in this role, after a check of its files.

    Raises: `UsageError` if it can't be used. For a damaged artefact, the message has the command that repairs it.
    """
    folder, name = Path(location).expanduser(), f"{FLAGS[role]} {location}"
    if not folder.is_dir():
        names = f"{', '.join(READOUTS)} or " if role == READOUT else ""
        makers = {ADAPTER: "peft saved an adapter in", READOUT: "eexit train made, or tuned-lens saved"}
        maker = makers.get(role, "eexit train made")
        raise UsageError(f"{name} is not a folder that is there: give {names}one that {maker}")
    if role == ADAPTER:
        files = adapter_digests(folder)
        return ArtefactCard(what=ADAPTER, holds=(ADAPTER,), model={}, layers=(), readout="lens", files=files)
    if role == READOUT and not (folder / CARD).is_file() and all((folder / file).is_file() for file in LENS_FILES):
        return _lens_card(folder, name)
    if not (folder / CARD).is_file():
        raise UsageError(
            f"{name} has no {CARD}: it is no artefact's folder, or its training has not ended; the command that "
            "began it goes on with it"
        )
    try:
        card = parse_card((folder / CARD).read_bytes())
    except (ValueError, OSError) as error:
        raise UsageError(
            f"{name} has a {CARD} that is damaged, or of another version: train it again, by the command that made it"
        ) from error
    if role not in card.holds:
        way_out = " or ".join(f"{FLAGS[held]} {location}" for held in card.holds)
        raise UsageError(f"{name} holds no {role}, since it was trained with --what {card.what}: give {way_out}")
    if reason := damage(folder, card):
        raise UsageError(f"{name} is damaged: {reason}; {training_advice(card, location)}")
    return card


def _lens_card(folder: Path, name: str) -> ArtefactCard:
    """Return a card of a tuned lens, from its configuration. Raises `UsageError` for another file."""
    try:
        found = json.loads((folder / MODEL_CONFIG).read_bytes())
        kind, n_layers, width = (found[field] for field in ("lens_type", "num_hidden_layers", "d_model"))
        if kind != "linear_tuned_lens" or not all(isinstance(number, int) for number in (n_layers, width)):
            raise ValueError
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"{name} has a {MODEL_CONFIG} that is not of a tuned lens (linear_tuned_lens)") from error
    # Its map number i is of the hidden state before layer i, which is that after layer i - 1.
    return ArtefactCard(
        what=TUNED_LENS, holds=(READOUT,), layers=tuple(range(n_layers - 1)), readout="lens",
        model={"name": str(found.get("base_model_name_or_path") or ""), "n_layers": n_layers},
        settings={"d_model": width}, files={file: sha256([folder / file]) for file in LENS_FILES},
    )  # fmt: skip


def damage(folder: Path, card: ArtefactCard) -> str | None:
    """Return the damage to the files that a card lists; None if they are unchanged since training."""
    if WEIGHTS not in card.files:
        return f"{CARD} does not name {WEIGHTS}"
    for file, digest in card.files.items():
        if not (folder / file).is_file():
            return f"{file} is missing"
        if sha256([folder / file]) != digest:
            return f"{file} is not the file that was trained"
    return None


def training_advice(card: ArtefactCard, location: str) -> str:
    """Return the advice to train the artefact of this card again, with the command if the card records its flags."""
    if not {"sweep", "flags"} <= card.data.keys():
        return "train it again, by the command that made it"
    layers = ["--exit-layers", *map(str, card.layers)]
    words = ["eexit", "train", card.data["sweep"], "--what", card.what, "--out", location, *layers]
    return f"train it again: {shlex.join([*words, *card.data['flags']])}"


def locations_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the folders of the artefacts in a sweep's configuration, by role."""
    given = {role: config.get(role) for role in FLAGS}
    return {
        role: location for role, location in given.items() if isinstance(location, str) and location not in READOUTS
    }


def with_digests(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a sweep's fields with the digests of its artefacts by role, unless they have some.

    Raises: `UsageError` if an artefact is unusable or does not fit the others.
    """
    if "digests" in fields or not (locations := locations_of(fields)):
        return fields
    readout = str(fields.get("readout", "lens"))
    cards = {role: read_card(location, role) for role, location in locations.items()}
    digests = {role: card.digest for role, card in cards.items()}
    for role in (PROBE, GATE):
        if role in cards:
            _refuse_other_readout(cards[role], f"{FLAGS[role]} {locations[role]}", readout, digests)
    for role, card in cards.items():
        if role != ADAPTER and card.adapter != digests.get(ADAPTER) and (card.adapter or role != READOUT):
            whose = "an adapter's hidden states" if card.adapter else "the model's own hidden states"
            raise UsageError(f"{FLAGS[role]} {locations[role]} was trained on {whose}: give --adapter as it was there")
    return {**fields, "digests": digests}


def _refuse_other_readout(card: ArtefactCard, name: str, readout: str, digests: Mapping[str, str]) -> None:
    if card.readout != digests.get(READOUT, readout):
        trained_on = card.readout if len(card.readout) < len(card.digest) else "a learned one"
        predicts = "KLs" if PROBE in card.holds else "exits"
        raise UsageError(
            f"{name} predicts {predicts} of readout {trained_on}, not of {readout}: "
            "give --readout as it was trained with"
        )


def adapter_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of an adapter. Raises `UsageError` if the folder has no weights."""
    weights = sorted(file.name for file in folder.glob("*.safetensors"))
    files = PEFT_FILES if is_peft(folder) else (MODEL_CONFIG, *weights)
    if len(files) < 2:
        raise UsageError(f"--adapter {folder} has no safetensors: save the fine-tuned model with save_pretrained")
    return {name: file_digest(folder / name) for name in files}
