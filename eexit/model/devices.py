"""A model over several devices, for one that is too large for any of them: each layer runs where its weights are.

All else is on the head's device: the tokens, the streams that wait, the decisions and the readings. So a step makes as
many copies to the host and back as on one device. Each layer's keys and values stay on its device, and at a border
streams are copied from device to device, which the host does not wait for. An early read needs such a copy as well, of
W numbers for each row. A norm and head of their own on each device would read without it, but take V·W numbers of
memory there (2 GB of a Llama 3 70B), and what they read would have to come to where it is decided all the same. Only
the final norm, which is small, is copied to where the head is.

Shapes: B rows, T tokens, V vocabulary, W width of the residual stream.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eexit.errors import UsageError
from eexit.model.layer_calls import LayerCall, each_part
from eexit.model.layerwise import LayerPass, Layerwise
from eexit.model.support.refusals import refuse_offloaded
from eexit.model.views import CacheView


class Spread(Layerwise):
    """A model that may be on several devices: `devices` are the layers' then, and `device` is the head's."""

    devices: Sequence[torch.device] = ()
    first: torch.device  # of the embeddings

    def place(self, model: PreTrainedModel, stack: nn.Module, layers: nn.ModuleList) -> Any:
        """Find the devices; returns the model as it is run. Raises `UsageError` for one that is offloaded in part."""
        self.device, self.devices = model.device, _devices_of(model, layers)
        if not self.devices:
            return model
        self.first, head = _device_of(model.get_input_embeddings()), model.get_output_embeddings()
        self.device = self.devices[-1] if head is None else _device_of(head)
        return placed(model, self.device, {stack: self.first, **dict(zip(layers, self.devices, strict=True))})

    def at_head(self, modules: Sequence[nn.Module]) -> Sequence[nn.Module]:
        return [placed(module, self.device) for module in modules] if self.devices else modules

    def device_of(self, layer: int) -> torch.device:
        return self.devices[layer] if self.devices else self.device

    def where(self, layer: int, given: Any) -> Any:
        return each_part(partial(_moved, self.devices[layer]), given) if self.devices else given

    def begin(self, token_BT: Tensor, view: CacheView) -> tuple[Tensor, LayerPass]:
        if not self.devices:
            return super().begin(token_BT, view)
        hidden_BTW, on_first = super().begin(token_BT.to(self.first), view.to(self.first))

        def on(device: torch.device) -> LayerPass:
            if device == self.first:
                return on_first
            return LayerPass(self, view.to(device), _CallsOn(device, on_first, view.to(device)))

        return hidden_BTW.to(self.device), SpreadPass(self, view, on_first.calls, on)

    def embed(self, **inputs: Any) -> tuple[Tensor, list[LayerCall]]:
        if not self.devices:
            return super().embed(**inputs)
        there = {name: part.to(self.first) if isinstance(part, Tensor) else part for name, part in inputs.items()}
        return super().embed(**there)


class SpreadPass(LayerPass):
    """A pass through layers on several devices: on each its own pass, to which streams and arguments are copied.

    Such a part is made by `make` when it is first needed.
    """

    def __init__(
        self, decoder: Spread, view: CacheView, calls: Sequence[LayerCall], make: Callable[[torch.device], LayerPass]
    ):
        super().__init__(decoder, view, calls)
        self.spread, self.make = decoder, make
        self.parts: dict[torch.device, LayerPass] = {}

    def part(self, device: torch.device) -> LayerPass:
        if device not in self.parts:
            self.parts[device] = self.make(device)
        return self.parts[device]

    def among(self, rows: Tensor, view: CacheView) -> "SpreadPass":
        def on(device: torch.device) -> LayerPass:
            return self.part(device).among(rows.to(device), view.to(device))

        return SpreadPass(self.spread, view, self.calls, on)

    def on(self, layer: int) -> LayerPass:
        return self.part(self.spread.devices[layer])

    def block(self, layer: int, hidden_BTW: Tensor) -> Tensor:
        return self.on(layer).block(layer, hidden_BTW.to(self.spread.devices[layer]))

    def write_keys(
        self, layer: int, hidden_BTW: Tensor, projections: Sequence[Callable[[Tensor], Tensor]] = ()
    ) -> None:
        self.on(layer).write_keys(layer, hidden_BTW.to(self.spread.devices[layer]), projections)


class _CallsOn(Sequence[LayerCall]):
    """The calls of a pass on another device, where `view` takes the place of its view."""

    def __init__(self, device: torch.device, source: LayerPass, view: CacheView):
        self.device, self.source, self.view = device, source, view
        self.copies: dict[int, Tensor] = {}  # by the id of what was copied: most layers get the same tensors

    def __len__(self) -> int:
        return len(self.source.calls)

    def __getitem__(self, layer: Any) -> Any:
        return each_part(self._copy, self.source.calls[layer])

    def _copy(self, part: Any) -> Any:
        if part is self.source.view:
            return self.view
        if not isinstance(part, Tensor):
            return part
        if id(part) not in self.copies:
            self.copies[id(part)] = part.to(self.device)
        return self.copies[id(part)]


def placed(module: nn.Module, device: torch.device, elsewhere: Mapping[nn.Module, torch.device] | None = None) -> Any:
    """A copy of a module with its weights on a device, and those of modules within it that are `elsewhere` there.

    Weights that are there already are shared. The copy lacks the hooks of accelerate, which move at each module what it
    is given: what it is given here is there before.
    """
    device, copied = (elsewhere or {}).get(module, device), copy.copy(module)
    if "_hf_hook" in vars(module):
        for name in ("forward", "_old_forward", "_hf_hook"):
            vars(copied).pop(name, None)
    copied._parameters = {name: _held(part, device) for name, part in module._parameters.items()}
    copied._buffers = {name: _held(part, device) for name, part in module._buffers.items()}
    copied._modules = {
        name: None if child is None else placed(child, device, elsewhere) for name, child in module._modules.items()
    }
    return copied


def _held(weight: Any, device: torch.device) -> Any:
    if weight is None or weight.device == device:
        return weight
    moved = weight.detach().to(device)
    return nn.Parameter(moved, requires_grad=False) if isinstance(weight, nn.Parameter) else moved


def _moved(device: torch.device, part: Any) -> Any:
    return part.to(device) if isinstance(part, Tensor | CacheView) else part


def _device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _devices_of(model: PreTrainedModel, layers: nn.ModuleList) -> list[torch.device]:
    """The device of each layer of a model that is on several; else none. Raises `UsageError`."""
    refuse_offloaded(model)
    if len({parameter.device for parameter in model.parameters()}) <= 1:
        return []
    for index, layer in enumerate(layers):
        if len(devices := sorted({str(parameter.device) for parameter in layer.parameters()})) > 1:
            raise UsageError(
                f"layer {index} is on {' and '.join(devices)}: give a device_map that has each layer on one device"
            )
    return [_device_of(layer) for layer in layers]


def has_float64(device: torch.device) -> bool:
    """Whether tensors there can be float64, as they can't on Apple's GPUs."""
    return device.type != "mps"


def in_float64(part: Tensor) -> Tensor:
    """Where it is or, if that device has no float64, on the CPU."""
    return (part if has_float64(part.device) else part.cpu()).double()
