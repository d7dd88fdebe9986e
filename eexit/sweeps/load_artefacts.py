"""Loading the artefacts of a sweep, for a loaded model."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor

from eexit.errors import UsageError
from eexit.method.kv_maps import KEYS, KVMaps
from eexit.method.linear_map import LinearMap
from eexit.method.linear_predictors import Gate, Probe
from eexit.method.readouts import READOUTS, LinearReadout, Readout, TunedLens
from eexit.model.layers import Decoder
from eexit.plan.artefact_check import cards_of
from eexit.plan.artefacts import FLAGS, GATE, KV_MAPS, LENS_FILES, READOUT, TUNED_LENS, WEIGHTS, ArtefactCard
from eexit.plan.sweep_config import SweepConfig


def load_readout(config: SweepConfig, layers: Sequence[int], decoder: Decoder) -> Readout:
    """Return the readout of a sweep. Raise `UsageError` for an artefact that can't be used."""
    card = cards_of(config).get(READOUT)
    if card is None:
        return READOUTS[config.readout]
    if card.what == TUNED_LENS:
        return _load_lens(card, config.readout, layers, decoder).to(decoder.device)
    return LinearReadout.from_tensors(_weights(config.readout), layers).to(decoder.device)


def _load_lens(card: ArtefactCard, location: str, layers: Sequence[int], decoder: Decoder) -> TunedLens:
    """Return a tuned lens, of which no code is run. Raise `UsageError` if its maps don't fit the model."""
    name, width = f"{FLAGS[READOUT]} {location}", decoder.width
    try:
        tensors = torch.load(Path(location, LENS_FILES[-1]).expanduser(), map_location="cpu", weights_only=True)
        given = {layer: (tensors[f"{layer + 1}.weight"], tensors.get(f"{layer + 1}.bias")) for layer in layers}
        shapes = {tuple(weight_DD.shape) for weight_DD, _ in given.values()}
    except (OSError, EOFError, RuntimeError, UnpicklingError, AttributeError, KeyError) as error:
        raise UsageError(f"{name} can't be read: {LENS_FILES[-1]} has no maps of a tuned lens alone") from error
    if shapes != {(width, width)}:
        found = " and ".join(" × ".join(map(str, shape)) for shape in sorted(shapes))
        raise UsageError(f"{name} has maps of {found}, and hidden states of model {card.model['name']} have {width}")
    return TunedLens(
        {
            layer: LinearMap(weight_DD.T.float(), torch.zeros(width) if bias_D is None else bias_D.float())
            for layer, (weight_DD, bias_D) in given.items()
        }
    )


def load_gate(config: SweepConfig, layers: Sequence[int], decoder: Decoder) -> Gate | None:
    """Return the gate of a sweep, in fp32; None without one. Raise `UsageError` for an artefact that can't be used."""
    if config.gate is None:
        return None
    rules = cards_of(config)[GATE].settings["rules"]
    return Gate.from_tensors(_weights(config.gate), layers, rules=tuple(rules)).to(decoder.device)


def load_probe(config: SweepConfig, layers: Sequence[int], decoder: Decoder) -> Probe | None:
    """Return the probe of a sweep, in fp32; None without one. Raise `UsageError` for an artefact that can't be used."""
    if config.probe is None:
        return None
    return Probe.from_tensors(_weights(config.probe), layers).to(decoder.device)


def load_kv_maps(config: SweepConfig, layers: Sequence[int], decoder: Decoder) -> KVMaps | None:
    """Return the KV maps of a sweep, in fp32 where the decoder uses them; None without any.

    Raise `UsageError` for an artefact that can't be used. One cause is a model that computes keys and values without
    separate modules.
    """
    if config.kv_maps is None:
        return None
    maps = KVMaps.from_tensors(_weights(config.kv_maps), layers, decoder.n_layers)
    without = [layer for layer, alone in enumerate(decoder.for_keys) if not alone.projections]
    if maps.form == KEYS and without:
        raise UsageError(
            f"{FLAGS[KV_MAPS]} {config.kv_maps} is of form {KEYS}, but layer {without[0]} makes keys and values by no "
            "modules of their own: train maps of form streams"
        )
    return maps.to_decoder_devices(decoder)


def _weights(location: str) -> dict[str, Tensor]:
    return load_file(Path(location).expanduser() / WEIGHTS)
