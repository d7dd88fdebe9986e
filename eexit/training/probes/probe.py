"""`probe`: log KL(final ‖ layer), predicted linearly from a layer's hidden state, for the rule `predicted_kl`.

One pass over the texts reads every layer and accumulates a ridge regression of log KL. The predictions are calibrated
on the validation texts (`eexit.training.probes.calibration`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from eexit.method.linear_map import LinearMap
from eexit.method.linear_predictors import Probe
from eexit.method.linear_predictors import log_kl as predicted_log_kl
from eexit.method.rules import RULES
from eexit.plan.artefacts import CardRow
from eexit.training.hidden_states import BLOCK_TOKENS, compare, decided_hidden_states, hidden_states
from eexit.training.probes.calibration import calibrate
from eexit.training.ridge import Moments, SplitMoments, best_fit, linear_map
from eexit.training.texts import TrainingText, blocks
from eexit.training.trainer_inputs import KL_FACTORS, TrainerInputs

LEAST_KL: Final = 1e-4  # nats; below, an exit is nearly certain at any sensible k, and the logarithm means little


def log_kl(kl: Tensor) -> Tensor:
    """Return the target of probes: log KL, of at least `LEAST_KL`."""
    return kl.clamp_min(LEAST_KL).log()


class ProbeTrainer:
    """Trainer of the probes of all exitable layers at once."""

    def __init__(self, setup: TrainerInputs):
        self.decoder, self.layers, self.readout = setup.decoder, setup.options.layers, setup.readout
        self.choosing = [text for text in setup.texts if text.chooses]
        self.probe = Probe({})

    def pairs(self, texts: Sequence[TrainingText]) -> Iterable[tuple[str, Tensor, Tensor]]:
        hidden_NXD = hidden_states(self.decoder, texts, self.layers)
        target_NE = log_kl(self._kl(hidden_NXD))
        for rank, layer in enumerate(self.layers):
            yield str(layer), hidden_NXD[:, rank], target_NE[:, rank, None]

    def _kl(self, hidden_NXD: Tensor) -> Tensor:
        """Return KL(final ‖ layer), nats, (N, E), on the CPU."""
        return compare(self.decoder, self.readout, self.layers, hidden_NXD).kl_BE

    @torch.no_grad()
    def solve(self, sums: SplitMoments) -> Mapping[str, Tensor]:
        """Fit the regressions, and calibrate the probes on the validation texts."""
        fitted = [linear_probe(*sums.moments_of(str(layer))) for layer in self.layers]
        seen, kls = [], []
        for block in blocks(self.choosing, BLOCK_TOKENS):
            hidden_NXD = hidden_states(self.decoder, block, self.layers)
            streams_E = hidden_NXD.cpu().unbind(1)[:-1]
            seen.append(torch.stack([predicted_log_kl(*each) for each in zip(fitted, streams_E, strict=True)], 1))
            kls.append(self._kl(hidden_NXD).clamp_min(LEAST_KL))
        pairs = zip(fitted, torch.cat(seen).unbind(1), torch.cat(kls).unbind(1), strict=True)
        calibrated = [calibrate(seen_N, kl_N).apply(probe) for probe, seen_N, kl_N in pairs]
        self.probe = Probe(dict(zip(self.layers, calibrated, strict=True)))
        return self.probe.tensors()

    @torch.inference_mode()
    def table(self, texts: Sequence[TrainingText]) -> list[CardRow]:
        """Return the shares of tokens that exit, and of rule `kl`'s exits that the probe also makes; by KL factor."""
        parts: dict[tuple[int, float], list[Tensor]] = {}
        for hidden_NXD in decided_hidden_states(self.decoder, texts, self.layers):
            kl_NE, hidden_NXD = self._kl(hidden_NXD), hidden_NXD.cpu()
            for rank, layer in enumerate(self.layers):
                for factor in KL_FACTORS:
                    factor_N = torch.full_like(kl_NE[:, rank], factor)
                    seen_N = self.probe.predicted_kl(hidden_NXD[:, rank], layer, factor_N)
                    stops = stop_chance(seen_N, factor), stop_chance(kl_NE[:, rank], factor)
                    parts.setdefault((layer, factor), []).append(torch.stack(stops))
        return [card_row(layer, factor, *torch.cat(stops, 1)) for (layer, factor), stops in parts.items()]


def linear_probe(learn: Moments, choose: Moments) -> LinearMap:
    """Return the ridge regression of log KL on a layer's hidden state, independent of the KL factor; fp32.

    It is fitted to the moments `learn`, and `choose` has those by which the penalty is chosen.
    """
    map_J1 = best_fit(learn, choose, [torch.zeros_like(learn.both_JH[1:])], refit=False)
    return linear_map(torch.cat([map_J1, torch.zeros_like(map_J1[:1])]))


def stop_chance(kl_N: Tensor, factor: float) -> Tensor:
    """Return rule `kl`'s exit probability at these KLs, (N,)."""
    return RULES["kl"].chances(kl_N, torch.full_like(kl_N, factor)).exit_BE


def card_row(layer: int, factor: float, predicted_N: Tensor, true_N: Tensor) -> CardRow:
    """Return a probe's card row, from exit probabilities by the predicted KL and by the true KL.

    Both rules share each token's draw, so that a token exits by both if the draw is below both probabilities.
    """
    exits, both = true_N.sum().item(), torch.minimum(predicted_N, true_N).sum().item()
    return CardRow(
        layer=layer, series="predicted_kl", at=factor, n=len(true_N), taken=predicted_N.mean().item(),
        kept=both / exits if exits else None,
    )  # fmt: skip
