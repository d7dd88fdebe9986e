"""Probes, gates and readouts of the tiny models' layers with random weights, for tests of the engine.

Shapes: W width of the residual stream, M hidden units.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from axes import EXITABLE

from eexit.method.gate import Gate, LayerGate
from eexit.method.probes import LayerProbe, Probe
from eexit.method.readouts import Affine, Linear, Tuned

WIDTH: Final = 32  # W
HIDDEN: Final = 8  # M


def _normal(generator: torch.Generator, *shape: int, std: float) -> torch.Tensor:
    return std * torch.randn(*shape, generator=generator)


def random_probe(put: Callable[[torch.Tensor], torch.Tensor] = lambda part: part) -> Probe:
    """With a hidden layer and calibrated for all layers but the first exitable one; log KLs of about ±1.

    `put` may move its parts.
    """
    generator, of_layer = torch.Generator().manual_seed(0), {}
    for layer in range(6):
        mean, std = _normal(generator, WIDTH, std=0.1), 8 + _normal(generator, WIDTH, std=0.1)
        hidden = _normal(generator, WIDTH, HIDDEN, std=0.3), _normal(generator, HIDDEN, std=0.1)
        weight, bias = _normal(generator, WIDTH if layer == EXITABLE[0] else HIDDEN, std=0.3), torch.tensor(-0.5)
        parts = [mean, std, weight, bias, *(() if layer == EXITABLE[0] else hidden)]
        parts += [] if layer == EXITABLE[0] else [torch.tensor(-0.4)]
        of_layer[layer] = LayerProbe(*map(put, parts))
    return Probe(of_layer)


def _affine(seed: int) -> dict[int, Affine]:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: (_normal(generator, WIDTH, WIDTH, std=0.2), _normal(generator, WIDTH, std=0.2)) for layer in range(6)
    }


def random_gate(rules: Sequence[str]) -> Gate:
    """For these rules, at all exitable layers, with chances of about a half."""
    generator, n_rules = torch.Generator().manual_seed(0), len(rules)
    parts = {
        layer: LayerGate(_normal(generator, WIDTH, n_rules, std=0.05), _normal(generator, n_rules, std=0.05))
        for layer in EXITABLE
    }
    return Gate(tuple(rules), parts)


PROBE: Final = random_probe()
LINEAR: Final = Linear(_affine(1))
TUNED: Final = Tuned(_affine(2))
