"""What the rules of a synthetic sweep see, made up from the KLs of layers, and where they then stop.

Shapes: n tokens, E exitable layers, X = E + 1 with the final layer.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from eexit.method.rules import ONLINE, ORACLES, RULES, Control, Distribution, Look
from eexit.plan.configuration import Configuration, Exit

if TYPE_CHECKING:
    from eexit.method.divergence import Divergence
    from eexit.method.probes import Probe


def decide(
    configuration: Configuration,
    layers: tuple[int, ...],
    kl_nE: np.ndarray,
    agrees_nX: np.ndarray,
    counts: dict[str, list[tuple[int, int]]],
) -> tuple[np.ndarray, np.ndarray | None]:
    """The chance to exit at each exitable layer that is reached, and what the rule sees there; None if at nothing.

    The first token is not decided. `counts` are the exits of the configurations so far, for their controls.
    """
    if not isinstance(configuration, Exit):
        return np.zeros_like(kl_nE), None
    rule, parameter = configuration.rule, configuration.parameter
    if isinstance(parameter, Control):
        parameter = Control(parameter.of, tuple(counts[parameter.of]))
    parameters = torch.tensor([list(RULES[rule].per_layer(parameter, layers))] * len(kl_nE))
    evidence = None
    if rule in ORACLES:
        seen = SimpleNamespace(kl_BE=torch.from_numpy(kl_nE), likeliest_BX=torch.from_numpy(agrees_nX.astype(int)))
        evidence = ORACLES[rule].evidence(cast("Divergence", seen))
    elif rule in ONLINE:
        evidence = torch.stack([ONLINE[rule].evidence(look) for look in _looks(kl_nE, agrees_nX)], dim=1)
    stop: np.ndarray = RULES[rule].chances(evidence, parameters).stop_BE.numpy().astype(float)
    stop[0] = 0
    return stop, None if evidence is None else evidence.numpy().astype(np.float32)


def _looks(kl_nE: np.ndarray, agrees_nX: np.ndarray) -> list[Look]:
    """One per exitable layer. The smaller the KL, the surer the layer, and the less the stream changes there."""
    kl, agrees = torch.from_numpy(kl_nE), torch.from_numpy(agrees_nX[:, :-1])
    likeliest = torch.where(agrees, 0, 1 + torch.arange(kl.shape[1]))
    found = []
    for layer in range(kl.shape[1]):
        top = (-kl[:, layer] / 4).exp()
        second = torch.minimum(top, 1 - top) / 2
        cosine = 1 - 0.1 * kl[:, layer] / (1 + kl[:, layer])
        predicted = 1.2 * kl[:, layer] ** 0.8  # too high where the KL is low, and too low where it is high
        probe = SimpleNamespace(predicted_kl=lambda _stream, _layer, _factor, predicted=predicted: predicted)
        found.append(
            Look(
                layer=layer,
                before_BW=torch.stack([cosine, (1 - cosine**2).sqrt()], dim=1),
                after_BW=torch.tensor([[1.0, 0.0]]).expand(len(kl), 2),
                read=Distribution(
                    top_p_B2=torch.stack([top, second], dim=1), entropy_B=(0.7 * kl[:, layer]).clamp(max=9)
                ),
                likeliest_BR=likeliest[:, : layer + 1],
                parameter_B=torch.ones(len(kl)),
                probe=cast("Probe", probe),
            )
        )
    return found
