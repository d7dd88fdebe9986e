"""Models of others, as settings run them: each is checked once per process, and again when anything of it has changed.

A model is taken apart through a copy of its modules that shares all of its weights, so that nothing of the model itself
is touched, not even while it generates. Since the copy is made once, each call looks whether the model is still what
was copied: another one is checked, refused or taken apart as if it had never been used.
"""

import hashlib
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from math import gcd
from operator import is_
from threading import RLock
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from eexit.custom_generate.taken import Taken
from eexit.decode.rows.decoders import Decoders, take_apart
from eexit.errors import UsageError
from eexit.model.adapters import sharing
from eexit.model.quantization import beside_parts, method_of, parts_of, quantization_of
from eexit.model.support.refusals import refuse_autocast, refuse_compiled
from eexit.output.text import some, with_weights

_WAY_OUT: Final = "load that model, or take a setting of this one home"


# Names of files, of tokens, of what is returned and of how weights are held; none changes what the layers compute.
_ASIDE: Final = (
    "architectures", "auto_map", "dtype", "torch_dtype", "id2label", "label2id", "transformers_version",
    "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "is_llama_config",
    "quantization_config",
)  # fmt: skip
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks")
_CONTAINERS: Final = ("_parameters", "_buffers", "_modules", *_HOOKS)  # of a module; they change in place
_OF_CALLS: Final = "generation_config"  # which every call hands over
_WHOLE: Final = 1024  # a tensor of up to so many numbers is looked at as a whole,
_SAMPLED: Final = 128  # and of a larger one this many numbers, which lie evenly in its memory
_AS_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes: NaN equals itself


class SeenModel:
    """A model as it is now, to tell in far less time than a step takes whether it still is that.

    Modules, hooks and whatever else modules hold are told apart by identity, the configuration by what it says, and
    tensors by their place, by torch's count of writes, and by some of their numbers, since torch does not count what
    is written through `data` or numpy. It keeps what the model holds, but not the model itself.
    """

    def __init__(self, model: PreTrainedModel):
        modules = [*model.modules()]
        self.facts = config_facts(model)
        self._holding = [vars(module) for module in modules]
        self._modules, self._types = modules[1:], [*map(type, modules[1:])]
        self._held = self._pieces()
        tensors = {id(each): each for each in self._held if isinstance(each, Tensor)}.values()
        self._tensors = [part for each in tensors for part in parts_of(each)]
        self._written = self._writes()
        samples = [_sample(tensor) for tensor in self._tensors if tensor.numel()]
        self._on_cpu = [sample.numpy() for sample in samples if sample.device.type == "cpu"]  # faster there than torch
        self._elsewhere = [sample for sample in samples if sample.device.type != "cpu"]
        self._numbers = self._sampled()

    def is_still(self, model: PreTrainedModel) -> bool:
        """Whether nothing of the model that was looked at has changed."""
        pieces = self._pieces()
        return (
            len(pieces) == len(self._held)
            and all(map(is_, pieces, self._held))
            and [*map(type, self._modules)] == self._types
            and self._writes() == self._written
            and self._sampled() == self._numbers
            and config_facts(model) == self.facts
        )

    def _pieces(self) -> list[object]:
        pieces: list[object] = []
        of_model, *of_modules = self._holding
        pieces += [value for name, value in of_model.items() if name != _OF_CALLS]
        for held in of_modules:
            pieces += held.values()
        for held in self._holding:
            for name in _CONTAINERS:
                pieces += held[name].values()
        return pieces

    def _writes(self) -> list[tuple[int, int]]:
        """Where each tensor is and how often it was written to; 0 for one of inference mode, where torch can't say."""
        return [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in self._tensors]

    def _sampled(self) -> bytes:
        on_cpu = np.concatenate(self._on_cpu).tobytes() if self._on_cpu else b""
        return on_cpu + (torch.cat(self._elsewhere).cpu().numpy().tobytes() if self._elsewhere else b"")


@dataclass
class CheckedModel:
    """A model whose layers can be run one at a time, what it was when that was found, and a lock for who runs them.

    `decoders` are by adapter and by whether linear layers are packed; a packed one has weights of its own.
    """

    seen: SeenModel
    weights: str  # their digest
    quantization: str | None
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
        quantization = quantization_of(model)
        _refuse_precision(model, quantization, taken, name)  # before weights are read
        found = CheckedModel(SeenModel(model), weights_digest(model), quantization)
        _CHECKED[model] = found
    _refuse_precision(model, found.quantization, taken, name)
    dtype = precision(model)
    if found.weights != taken.model.measured[dtype].weights:
        raise UsageError(f"{name} is for {_called(taken)}, and this model has other weights: {_WAY_OUT}")
    _refuse_other_config(found.seen.facts, taken, name)
    return found


def decoders_of(model: PreTrainedModel, found: CheckedModel, adapter: str | None, packed: bool) -> Decoders:
    """Teacher and student, taken apart when they are first needed. Raises `UsageError` for what can't be."""
    if (adapter, packed) not in found.decoders:
        found.decoders[adapter, packed] = take_apart(sharing(model), adapter, packed)
    return found.decoders[adapter, packed]


def precision(model: PreTrainedModel) -> str:
    """The dtype of a model's weights, such as `float32`."""
    return str(model.dtype).removeprefix("torch.")


def _refuse_precision(model: PreTrainedModel, quantization: str | None, taken: Taken, name: str) -> None:
    if quantization != taken.model.quantization:
        measured_with = with_weights(taken.model.quantization) or " with weights as they were"
        is_this = "not quantised" if quantization is None else f"quantised ({quantization})"
        raise UsageError(
            f"{name} was measured{measured_with}, and the model is {is_this}: load it as {name}/README.md says, or "
            "take a setting of this one home"
        )
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


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 of the names, shapes, dtypes and numbers of all weights and lasting buffers; tied ones count once.

    Of quantised weights, it is of all that they consist of, and of how they are multiplied.
    """
    content, names = hashlib.sha256(), dict[int, str]()
    for name, whole in model.state_dict().items():
        content.update(beside_parts(whole).encode())
        for tensor in parts_of(whole):
            known = names.setdefault(tensor.data_ptr(), name)
            content.update(f"{name} {known} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            if known == name and tensor.numel():
                content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if (method := method_of(model.config)) is not None and quantization_of(model) == method:
        content.update(repr(model.config.quantization_config).encode())  # by which its modules compute
    return content.hexdigest()


def config_facts(model: PreTrainedModel) -> dict[str, Any]:
    """What a model's configuration says of what it computes, where that differs from the family's defaults."""
    found: dict[str, Any] = model.config.to_diff_dict()
    return {name: value for name, value in found.items() if name not in _ASIDE and name[0] != "_"}


def refuse_unusual(model: PreTrainedModel) -> None:
    """Raises `UsageError` for a model that is compiled, not on one device, hooked or patched."""
    refuse_compiled(model)
    devices = sorted({str(weight.device) for weight in model.parameters()})
    if len(devices) > 1 or devices == ["meta"]:
        raise UsageError(
            f"the model is spread over {', '.join(some(devices))}: load it onto one device, without offloading"
        )
    for name, module in model.named_modules():
        what = f"the model's {name}" if name else "the model"
        if any(_is_foreign(hook) for kind in _HOOKS for hook in vars(module)[kind].values()):
            raise UsageError(
                f"{what} has a forward hook, which would see other rows and tokens here than in plain generate: remove "
                "it (its handle has remove()), or generate without custom_generate"
            )
        if "forward" in vars(module):
            raise UsageError(
                f"{what} has a forward of its own in place of that of its class, and layers are run one at a time "
                "here: load the model again, or generate without custom_generate"
            )


def _is_foreign(hook: Callable[..., object]) -> bool:
    """Whether a hook is not one of transformers' own, which look on when hidden states are asked for."""
    return not getattr(hook, "__module__", "").startswith("transformers.")


def _sample(tensor: Tensor) -> Tensor:
    """A view of some of a tensor's numbers, in different rows and columns of a matrix."""
    numbers = tensor.detach().view(_AS_INTEGERS[tensor.element_size()])
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if extent <= _WHOLE:
        return numbers.as_strided((extent,), (1,))
    step = extent // _SAMPLED
    while gcd(step, tensor.shape[-1]) > 1:
        step -= 1
    return numbers.as_strided((_SAMPLED,), (step,))
