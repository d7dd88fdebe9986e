"""Loading what was learned, for a model that is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from eexit.artefacts import READOUT, WEIGHTS, Card, cards_of
from eexit.config import SweepConfig
from eexit.probes import Probe
from eexit.readouts import LEARNED, READOUTS, Readout


def load_readout(config: SweepConfig, layers: Sequence[int], device: torch.device, dtype: torch.dtype) -> Readout:
    """The readout of a sweep, in the model's precision. Raises `UsageError` for an artefact that can't be used."""
    card = cards_of(config).get(READOUT)
    if card is None:
        return READOUTS[config.readout]
    return readout_of(card, load_file(Path(config.readout).expanduser() / WEIGHTS), layers, device, dtype)


def readout_of(
    card: Card, tensors: Mapping[str, Tensor], layers: Sequence[int], device: torch.device, dtype: torch.dtype
) -> Readout:
    """The readout in these tensors."""
    parts = {
        layer: [tensors[f"readout.{layer}.{name}"].to(device, dtype) for name in ("weight", "bias")] for layer in layers
    }
    return LEARNED[card.what]({layer: (weight, bias) for layer, (weight, bias) in parts.items()})


def load_probe(config: SweepConfig, layers: Sequence[int], device: torch.device) -> Probe | None:
    """The probe of a sweep, in fp32; None without one. Raises `UsageError` for an artefact that can't be used."""
    if config.probe is None:
        return None
    tensors = load_file(Path(config.probe).expanduser() / WEIGHTS)
    return Probe.of({name: part.to(device) for name, part in tensors.items()}, layers)
