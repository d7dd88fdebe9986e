"""Simulated accelerators. Their tensors store values on the CPU, report another device, and can't be mixed with the
CPU's or another card's.

    with Card() as card:
        model = card.take(model)
        ...
        card.pop_counts()

The device is DEVICE, or OTHER. An operator on tensors of several devices raises `Mixed`, unless it copies between them
or a CPU tensor is a single number. Operations that would cost time on a real accelerator are counted, see `Counts`. A
model over both cards has accelerate's hooks, like one that transformers loads with a `device_map`: its first layers are
on OTHER.
"""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _DummyDeviceGuard
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexit.cpu import packed_linear
from eexit.method import linear_map
from eexit.model import loading, quantization
from eexit.model.layers import Decoder
from eexit.plan import model_description
from eexit.training import ridge

aten = torch.ops.aten
DEVICE = torch.device("privateuseone", 0)
OTHER = torch.device("privateuseone", 1)
CPU = torch.device("cpu")
COPIES = {aten.to, aten._to_copy, aten.copy_}
PINNING = {aten.pin_memory, aten._pin_memory, aten.is_pinned}
WAITS = {  # operators that need a number on the host, or one that determines the result's shape
    aten.item, aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.allclose, aten.nonzero, aten.nonzero_numpy,
    aten.argwhere, aten.where.default, aten.masked_select, aten._unique, aten._unique2, aten.unique_dim, aten.bincount,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
N_ON_OTHER = 3  # layers of a model over both cards
BY_MASK = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Mixed(RuntimeError):
    """Tensors of two devices met in one operator."""


@dataclass
class Counts:
    """Numbers of operators on the card without views, and of copies. `blocking_to_card` are copies that the host waits
    for; `waits` names operators for which the host needed numbers on the card.
    """

    operators: int = 0
    to_card: int = 0
    blocking_to_card: int = 0
    to_host: int = 0
    between: int = 0
    waits: list[str] = field(default_factory=list)


class There(Tensor):
    """A tensor on the card; `here` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor, device: torch.device = DEVICE) -> "There":
        with torch.inference_mode():  # views of the tensor need no tracking
            there = Tensor._make_wrapper_subclass(
                cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
                device=device,
            )  # fmt: skip
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # which torch declares as its disabled one
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{function}: a card works within its `with` only")

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch's docs have it

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> "There":
        return There(self.here.clone(), self.device)


class Memory(_DummyBackendModule):
    """The device's module. The card has 1 GiB of memory, and `taken` of it is in use by others."""

    taken = 0

    def synchronize(self, device: object = None) -> None:
        """Do nothing: no work is pending on the card."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        return (1 << 30) - self.taken, 1 << 30

    def memory_reserved(self, device: object = None) -> int:
        return 0

    memory_allocated = memory_reserved


class _FromPython(TorchFunctionMode):
    """Mode for `torch.tensor(numbers, device=…)` and for lists of indices, which bypass dispatch modes."""

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_made = function in (torch.tensor, torch.as_tensor)
        if is_made and torch.device(kwargs.get("device") or CPU).type == DEVICE.type:
            return function(*args, **kwargs | {"device": CPU}).to(kwargs["device"])
        if function is Tensor.__getitem__ and isinstance(args[0], There) and isinstance(args[1], tuple):
            device = args[0].device
            index = tuple(torch.tensor(part).to(device) if isinstance(part, list) else part for part in args[1])
            return function(args[0], index)
        return function(*args, **kwargs)


class Card(TorchDispatchMode):
    def __init__(self, has_float64: bool = True) -> None:
        """Make the card; Apple's have no float64."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, without annotations
        self.has_float64 = has_float64
        self.counts = Counts()
        self.pinned: dict[int, Tensor] = {}
        self.from_python = _FromPython()
        if not hasattr(torch, DEVICE.type):
            torch._register_device_module(DEVICE.type, Memory())
            torch._C._acc.register_python_privateuseone_device_guard(_DummyDeviceGuard())

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and checking that at each operator takes time

    def __enter__(self) -> "Card":
        self.from_python.__enter__()  # type: ignore[no-untyped-call]  # torch's own, without annotations
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's own, without annotations
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # torch's own, without annotations
        self.from_python.__exit__(*raised)  # type: ignore[no-untyped-call]  # torch's own, without annotations

    def take(self, model: PreTrainedModel, spread: bool = False) -> Any:
        """Return a copy of the model with its weights on the card, or spread over both."""
        devices = {path: card_of(model, path) if spread else DEVICE for path, _ in model.named_modules()}
        model = copy.deepcopy(model)
        moved: dict[int, Tensor] = {}
        for path, module in model.named_modules():
            device = devices[path]
            kinds: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for tensors in kinds:
                for name, tensor in tensors.items():
                    if tensor is not None:
                        there = moved.setdefault(id(tensor), There(tensor.detach(), device))
                        is_weight = tensors is module._parameters
                        tensors[name] = nn.Parameter(there, requires_grad=False) if is_weight else there
            if spread and (any(map(len, kinds)) or re.search(r"\.\d+$", path)):  # a layer has no weights of its own
                hook = AlignDevicesHook(device)
                hook.init_hook = lambda module: module  # the weights are on the device already
                add_hook_to_module(module, hook)
        return model

    def pop_counts(self) -> Counts:
        """Return the counts since the last call."""
        counts, self.counts = self.counts, Counts()
        return counts

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, function.overloadpacket
        tensors = _tensors((*args, *kwargs.values()))
        there = [tensor for tensor in tensors if isinstance(tensor, There)]
        here = [tensor for tensor in tensors if not isinstance(tensor, There)]
        if packet in PINNING:
            return self._pin(packet, here)
        named = _named(function, args, kwargs) if packet in COPIES else kwargs  # elsewhere, device is keyword-only
        device = _device(packet, named) or (there[0].device if there else CPU)
        on_card = device.type == DEVICE.type
        if packet in COPIES:
            source = named["src" if packet is aten.copy_ else "self"]
            self._count_copy(source, device, named["non_blocking"])
            if source.device != device:
                args = _each(lambda leaf: _here(leaf).clone() if leaf is source else leaf, args)
        elif there:
            if any(tensor.ndim for tensor in here):
                raise Mixed(f"{function} was given tensors of {DEVICE.type} and of {here[0].device}")
            if any(tensor.device != there[0].device for tensor in there[1:]):
                raise Mixed(f"{function} was given tensors of several cards")
            if packet in WAITS or function in WAITS or (packet in BY_MASK and _is_mask(args[1])):
                self.counts.waits.append(str(function))
        self.counts.operators += on_card and not function.is_view
        if packet is aten.histc and there and not there[0].is_floating_point():  # a CPU only counts floats
            return There(function(there[0].here.float(), *args[1:], **kwargs).to(there[0].dtype), device)
        made = function(*_each(_here, args), **{name: _each(_here, given) for name, given in kwargs.items()})
        if on_card and not self.has_float64 and any(part.dtype == torch.float64 for part in _tensors(made)):
            raise TypeError(f"{function} would make float64, which this card does not have")
        return _each(lambda leaf: _back(leaf, there, device) if isinstance(leaf, Tensor) else leaf, made)

    def _pin(self, packet: Any, here: list[Tensor]) -> Any:
        if packet is aten.is_pinned:
            return any(tensor.data_ptr() in self.pinned for tensor in here)
        [pinned] = [tensor.clone() for tensor in here]
        self.pinned[pinned.data_ptr()] = pinned
        return pinned

    def _count_copy(self, source: Tensor, device: torch.device, non_blocking: bool) -> None:
        to_card = device.type == DEVICE.type
        if isinstance(source, There):
            self.counts.to_host += not to_card
            self.counts.between += to_card and source.device != device
        elif to_card:
            self.counts.to_card += 1
            self.counts.blocking_to_card += not (non_blocking and source.data_ptr() in self.pinned)


def _tensors(given: Any) -> list[Tensor]:
    """Return the tensors among an operator's operands or results; some stand in lists."""
    if isinstance(given, (list, tuple)):
        return [tensor for part in given for tensor in _tensors(part)]
    return [given] if isinstance(given, Tensor) else []


def _each(change: Callable[[Any], Any], given: Any) -> Any:
    """Change all parts of `given`, lists and tuples; several times faster than torch's `tree_map`."""
    if isinstance(given, (list, tuple)):
        return type(given)([_each(change, part) for part in given])
    return change(given)


@cache
def _defaults(function: Any) -> dict[str, Any]:
    return {argument.name: argument.default_value for argument in function._schema.arguments}


def _named(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    defaults = _defaults(function)
    return defaults | dict(zip(defaults, args, strict=False)) | kwargs


def _device(packet: Any, named: dict[str, Any]) -> torch.device | None:
    """Return the device of the result; None: the operands' device."""
    like = named["self"] if packet is aten.copy_ else named.get("other")
    if packet in COPIES and isinstance(like, Tensor):
        return like.device
    device: torch.device | None = named.get("device")
    return device


def _is_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _here(leaf: Any) -> Any:
    if isinstance(leaf, There):
        return leaf.here
    return CPU if isinstance(leaf, torch.device) and leaf.type == DEVICE.type else leaf


def _back(made: Tensor, there: list[There], device: torch.device) -> Tensor:
    """Return an operator's result for the caller; a tensor that was changed in place is the same object as before."""
    for tensor in there:
        if tensor.here is made:
            assert tensor.shape == made.shape, "no operator may give a tensor another shape in place"
            return tensor
    return There(made, device) if device.type == DEVICE.type else made


def card_of(model: PreTrainedModel, path: str) -> torch.device:
    """Return the device of a module of a model over two cards. Weights tied to the head are on the head's card."""
    layer, head = re.search(r"\.(\d+)\b", path), model.get_output_embeddings()
    if layer:
        return OTHER if int(layer[1]) < N_ON_OTHER else DEVICE
    of_head = {id(parameter) for parameter in head.parameters()}
    module = model.get_submodule(path)
    is_head = module is head or any(id(parameter) in of_head for parameter in module.parameters(recurse=False))
    return DEVICE if is_head or re.search("rotary|wpe", path) else OTHER


@cache
def decoder_there(model: PreTrainedModel, spread: bool = False) -> Decoder:
    """Return the decoder of a model on one card or two."""
    with Card() as card:
        return Decoder(card.take(model, spread))


@contextmanager
def models_there() -> Iterator[None]:
    """Load models on the card within the context. Commands find the card as their device; it has no float64."""
    with pytest.MonkeyPatch.context() as patch, Card(has_float64=False) as card:
        load, is_whole = AutoModelForCausalLM.from_pretrained, packed_linear.is_unquantized

        def loaded_there(*args: Any, **kwargs: Any) -> Any:
            loaded = load(*args, **kwargs)
            return (card.take(loaded[0]), loaded[1]) if isinstance(loaded, tuple) else card.take(loaded)

        patch.setattr(AutoModelForCausalLM, "from_pretrained", loaded_there)
        for module in (packed_linear, quantization):
            patch.setattr(module, "is_unquantized", lambda weight: is_whole(getattr(weight, "here", weight)))
        for module in (ridge, linear_map):
            patch.setattr(module, "has_float64", lambda device: device.type == "cpu")
        for module in (loading, model_description):
            patch.setattr(module, "choose_device", lambda device: DEVICE)
        # Another test may have timed a card that has float64.
        patch.setattr(ridge, "adds_in_float64", cache(ridge.adds_in_float64.__wrapped__))
        yield
