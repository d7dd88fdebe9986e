"""Random probes, gates, readouts and KV maps of the tiny models' layers, for tests of the engine."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from axes import EXITABLE
from safetensors.torch import save_file

from eexit.method.kv_maps import KEYS, STREAMS, KVMaps, names
from eexit.method.linear_map import LinearMap
from eexit.method.linear_predictors import Gate, Probe
from eexit.method.readouts import LinearReadout
from eexit.model.layers import Decoder
from eexit.model.sources import sha256
from eexit.plan.artefacts import GATE, READOUT, WEIGHTS, ArtefactCard, write_card
from eexit.plan.artefacts import KV_MAPS as STATE_ROLE
from eexit.plan.sweep_config import SweepConfig

WIDTH: Final = 32
N_LAYERS: Final = 7


def _normal(generator: torch.Generator, *shape: int, std: float) -> torch.Tensor:
    return std * torch.randn(*shape, generator=generator)


def _probe() -> Probe:
    """Return a probe calibrated for all layers but the first exitable one, with log KLs of about ±1."""
    generator, maps = torch.Generator().manual_seed(0), {}
    for layer in range(6):
        mean, std = _normal(generator, WIDTH, std=0.1), 8 + _normal(generator, WIDTH, std=0.1)
        weight, power = _normal(generator, WIDTH, std=0.3) / std, 0.0 if layer == EXITABLE[0] else -0.4
        maps[layer] = LinearMap(torch.cat([weight, torch.tensor([power])])[:, None], -0.5 - (mean @ weight)[None])
    return Probe(maps)


def _maps(layers: Iterable[int], n: int, std: float, seed: int) -> dict[int, LinearMap]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: LinearMap(_normal(generator, WIDTH, n, std=std), _normal(generator, n, std=std)) for layer in layers}


def random_gate(rules: Sequence[str], layers: Sequence[int] = EXITABLE) -> Gate:
    """Return a gate for these rules, at these layers, with probabilities of about a half."""
    return Gate(_maps(layers, len(rules), std=0.05, seed=0), tuple(rules))


def _linear_map(generator: torch.Generator, name: str, n: int, m: int, std: float) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": _normal(generator, n, m, std=std), f"{name}.bias": _normal(generator, m, std=std)}


def stream_maps(std: float = 0.1) -> dict[str, torch.Tensor]:
    """Return the tensors of maps of hidden states, for exits at every layer."""
    tensors, generator = dict[str, torch.Tensor](), torch.Generator().manual_seed(3)
    for exit_layer in range(N_LAYERS):
        for layer in range(exit_layer + 2, N_LAYERS):
            [name] = names(STREAMS, exit_layer, layer)
            tensors |= _linear_map(generator, name, WIDTH, WIDTH, std)
    return tensors


def key_maps(decoder: Decoder) -> dict[str, torch.Tensor]:
    """Return the tensors of maps to keys and to values, for exits at every layer of a model with projections."""
    tensors, generator = dict[str, torch.Tensor](), torch.Generator().manual_seed(4)
    for layer, alone in enumerate(decoder.for_keys):
        projections: Sequence[Any] = alone.own_projections
        for exit_layer in range(layer - 1):
            for name, own in zip(names(KEYS, exit_layer, layer), projections, strict=True):
                tensors |= _linear_map(generator, name, own.in_features, own.out_features, 0.2)
    return tensors


def _save(folder: Path, what: str, tensors: Mapping[str, torch.Tensor], **card: Any) -> Path:
    folder.mkdir()
    save_file({name: part.contiguous() for name, part in tensors.items()}, folder / WEIGHTS)
    fields = {
        "what": what, "holds": (what,), "layers": range(N_LAYERS - 1), "readout": "lens",
        "files": {WEIGHTS: sha256([folder / WEIGHTS])},
    }  # fmt: skip
    write_card(folder, ArtefactCard.model_validate(fields | card))
    return folder


def save_state_maps(folder: Path, tensors: Mapping[str, torch.Tensor], model: Mapping[str, Any]) -> Path:
    return _save(folder, STATE_ROLE, tensors, model=dict(model))


def save_gate(folder: Path, gate: Gate, model: Mapping[str, Any]) -> Path:
    return _save(folder, GATE, gate.tensors(), model=dict(model), settings={"rules": gate.rules})


PROBE: Final = _probe()
KV_MAPS: Final = KVMaps.from_tensors(stream_maps(), range(N_LAYERS), N_LAYERS)
LINEAR: Final = LinearReadout(_maps(range(6), WIDTH, std=0.2, seed=1))
TINY: Final = {"name": "tiny", "digest": "ab" * 32, "revision": None, "n_layers": 7}


def artefact(folder: Path, what: str, holds: tuple[str, ...], **card: Any) -> Path:
    """Write a readout, or else a probe, with a card of model `TINY` and these fields; return its folder."""
    tensors = LINEAR.tensors() if READOUT in holds else PROBE.tensors()
    return _save(folder, what, tensors, **{"holds": holds, "model": TINY, **card})


def config_with(**fields: Any) -> SweepConfig:
    rules = ["predicted_kl=1"] if "probe" in fields else ["agree"]
    return SweepConfig.model_validate({"prompts": [{"id": "0", "prompt": "Why?"}], "rules": rules, **fields})
