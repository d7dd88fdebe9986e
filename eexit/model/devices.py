"""Where the parts of a model are, for one that is too large for a single device: each layer runs where its weights are.

Everything else is on the head's device: tokens, decisions and readings. accelerate's hooks, which transformers sets
when it loads a model with a `device_map`, move the residual stream from layer to layer.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from eexit.errors import UsageError
from eexit.model.refusals import refuse_offloaded


def devices_of(
    model: PreTrainedModel, layers: Sequence[nn.Module]
) -> tuple[torch.device, torch.device, list[torch.device]]:
    """The devices of a model's head, of its embeddings, and of each layer. Raises `UsageError`."""
    refuse_offloaded(model)
    for index, layer in enumerate(layers):
        if len(devices := sorted({str(parameter.device) for parameter in layer.parameters()})) > 1:
            raise UsageError(
                f"layer {index} is on {' and '.join(devices)}: give a device_map that has each layer on one device"
            )
    of_layers, head = [device_of(layer) for layer in layers], model.get_output_embeddings()
    return of_layers[-1] if head is None else device_of(head), device_of(model.get_input_embeddings()), of_layers


def device_of(module: nn.Module) -> torch.device:
    """Where a module is: if it has no parameters, all of its weights are packed, for the CPU."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
