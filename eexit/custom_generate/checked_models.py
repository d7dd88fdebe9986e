"""Models of others, as settings run them: each is checked once per process, and again when anything of it has changed.

A model is taken apart through a copy of its modules that shares all of its weights, so that nothing of the model itself
is touched, not even while it generates. Since the copy is made once, each call looks whether the model is still what
was copied: another one is checked, refused or taken apart as if it had never been used.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Final
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from eexit.cpu.packed_linear import pack_linear_layers
from eexit.custom_generate.taken import Taken
from eexit.decode.rows.decoders import Decoders
from eexit.errors import UsageError
from eexit.model.adapters import merged, sharing
from eexit.model.decoder import Decoder
from eexit.model.in_memory import SeenModel, refuse_unusual, weights_digest
from eexit.model.support.refusals import refuse_autocast

_WAY_OUT: Final = "load that model, or take a setting of this one home"


@dataclass
class CheckedModel:
    """A model whose layers can be run one at a time, what it was when that was found, and a lock for who runs them.

    `decoders` are by adapter and by whether linear layers are packed; a packed one has weights of its own.
    """

    seen: SeenModel
    weights: str  # their digest
    lock: RLock = field(default_factory=RLock)
    decoders: dict[tuple[str | None, bool], Decoders] = field(default_factory=dict)
    ready: MutableMapping[object, Any] = field(default_factory=WeakKeyDictionary)  # by setting: what it needs made once


_CHECKED: Final[MutableMapping[PreTrainedModel, CheckedModel]] = WeakKeyDictionary()


def checked(model: PreTrainedModel, taken: Taken, name: str) -> CheckedModel:
    """This model, once it is found to be the one that the setting called `name` is for. Raises `UsageError`."""
    if model.training:
        raise UsageError("the model is in training mode: call model.eval() before")
    refuse_autocast(model.device)
    found = _CHECKED.get(model)
    if found is None or not found.seen.is_still(model):
        refuse_unusual(model)
        _refuse_precision(model, taken, name)  # before weights are read
        found = CheckedModel(SeenModel(model), weights_digest(model))
        _CHECKED[model] = found
    _refuse_precision(model, taken, name)
    dtype = precision(model)
    if found.weights != taken.model.measured[dtype].weights:
        raise UsageError(f"{name} is for {_called(taken)}, and this model has other weights: {_WAY_OUT}")
    _refuse_other_config(found.seen.facts, taken, name)
    return found


def decoders_of(model: PreTrainedModel, found: CheckedModel, adapter: str | None, packed: bool) -> Decoders:
    """Teacher and student, taken apart when they are first needed. Raises `UsageError` for what can't be."""
    if (adapter, packed) not in found.decoders:
        base = sharing(model)
        student = base if adapter is None else merged(base, adapter)
        if packed:
            pack_linear_layers(base, student)
        own = {each: Decoder(each) for each in {base, student}}
        found.decoders[adapter, packed] = Decoders(own[base], own[student])
    return found.decoders[adapter, packed]


def precision(model: PreTrainedModel) -> str:
    """The dtype of a model's weights, such as `float32`."""
    return str(model.dtype).removeprefix("torch.")


def _refuse_precision(model: PreTrainedModel, taken: Taken, name: str) -> None:
    dtype, device, measured = precision(model), model.device.type, taken.model.measured
    if dtype not in measured:
        known = " or ".join(f"dtype=torch.{each}" for each in measured)
        raise UsageError(
            f"{name} was not measured in {dtype}: load the model with {known}, or take the setting home again with "
            f"--dtypes {dtype}"
        )
    if device != measured[dtype].device:
        raise UsageError(
            f"{name} was measured on {measured[dtype].device}, and the model is on {device}: move it there, or take "
            f"the setting home again on a machine with {device}"
        )


def _refuse_other_config(facts: Mapping[str, Any], taken: Taken, name: str) -> None:
    for fact, value in taken.model.config.items():
        if fact not in facts or facts[fact] != value:
            raise UsageError(
                f"{name} is for {_called(taken)} with {fact}={value}, and this model has {facts.get(fact)}: {_WAY_OUT}"
            )


def _called(taken: Taken) -> str:
    return taken.model.name + (f" at revision {taken.model.revision}" if taken.model.revision else "")
