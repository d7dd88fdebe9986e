"""`gate`: how likely rules are to exit at a layer, linear in the layer's residual stream.

One pass over the texts reads every layer, and keeps the sums of a ridge regression of the rules' chances to exit. On
the training texts that choose, what it predicts becomes a chance by logistic regression (Platt 1999).

Shapes: N tokens, E exitable layers, R rules, J = W + 1 with a constant 1 in front, W width of the residual stream.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from eexit.decode.layer_reading import read_layer
from eexit.decode.rows.requests import Decoding
from eexit.method.gate import Gate, LayerGate
from eexit.method.rules import ONLINE, Look
from eexit.training.probes.calibration import calibrate_odds
from eexit.training.ridge import best_fit
from eexit.training.setup import Setup, rule_and_parameter
from eexit.training.streams import BLOCK_TOKENS, Row, decided_streams, streams
from eexit.training.texts import Text, blocks
from eexit.training.trainer import Tables, Trainer

THRESHOLDS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # of the card's table


class GateTrainer(Trainer):
    """Trains the gates of all rules and exitable layers side by side."""

    def __init__(self, setup: Setup):
        super().__init__(setup)
        self.rules = setup.options.rules
        self.decoding = Decoding(tuple(self.layers), 1, frozenset(), readout=setup.readout)
        self.gate = Gate(self.rules, {})

    @torch.inference_mode()
    def train(self, block: Sequence[Text]) -> float | None:
        self.add_sums(block, self._pairs)
        return None

    def _pairs(self, states_NXW: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        return zip(states_NXW.unbind(1)[:-1], self._stops(states_NXW).unbind(1), strict=True)

    def _stops(self, states_NXW: Tensor) -> Tensor:
        """The rules' chances to exit at each layer, (N, E, R)."""
        n_tokens, device = len(states_NXW), states_NXW.device
        stop_NER = torch.zeros(n_tokens, len(self.layers), len(self.rules), device=device)
        for rank, layer in enumerate(self.layers):
            stream_NW = states_NXW[:, rank]
            read = read_layer(self.decoder, stream_NW, rank, self.decoding)
            distribution = read.distribution(torch.arange(n_tokens, device=device))
            for index, (name, parameter) in enumerate(map(rule_and_parameter, self.rules)):
                rule, [threshold] = ONLINE[name], ONLINE[name].per_layer(parameter, [layer])
                parameter_N = torch.full((n_tokens,), threshold, device=device)
                look = Look(layer, stream_NW, stream_NW, distribution, None, parameter_N)
                chances = rule.chances(rule.evidence(look)[:, None], parameter_N[:, None])
                stop_NER[:, rank, index] = chances.stop_BE[:, 0]
        return stop_NER

    @torch.no_grad()
    def finish(self) -> None:
        """Fit the regressions, and make chances of what they predict."""
        seen, stops = [], []
        fitted = [self._fit(layer) for layer in self.layers]
        for block in blocks([text for text in self.texts if text.chooses], BLOCK_TOKENS):
            states_NXW = streams(self.decoder, block, self.layers)
            streams_E = states_NXW.cpu().double().unbind(1)[:-1]
            seen.append(torch.stack([s @ m[1:] + m[0] for s, m in zip(streams_E, fitted, strict=True)], 1))
            stops.append(self._stops(states_NXW).cpu())
        seen_NER, stop_NER = torch.cat(seen), torch.cat(stops)
        gates = {}
        for rank, layer in enumerate(self.layers):
            scale_R, shift_R = calibrate_odds(seen_NER[:, rank], stop_NER[:, rank])
            map_JR = fitted[rank]
            gates[layer] = LayerGate((map_JR[1:] * scale_R).float(), (map_JR[0] * scale_R + shift_R).float())
        self.gate = Gate(self.rules, gates)

    def _fit(self, layer: int) -> Tensor:
        """The regression of a layer, (J, R); each rule has a penalty of its own."""
        learn, choose = self.sums.of(layer)
        prior_W1 = torch.zeros_like(learn.both_JH[1:, :1])
        maps = [
            best_fit(learn.targets(of_rule), choose.targets(of_rule), [prior_W1], refit=False)
            for of_rule in (slice(index, index + 1) for index in range(len(self.rules)))
        ]
        return torch.cat(maps, 1)

    def weights(self) -> dict[str, Tensor]:
        return self.gate.tensors()

    @torch.inference_mode()
    def tables(self, texts: Sequence[Text]) -> Tables:
        gate, chances, stops = self.gate.to(self.decoder.device), [], []
        for states_NXW in decided_streams(self.decoder, texts, self.layers):
            chance_RE = [
                [gate.chance(states_NXW[:, rank], layer, rule).cpu() for rank, layer in enumerate(self.layers)]
                for rule in self.rules
            ]
            chances.append(torch.stack([torch.stack(chance_E, 1) for chance_E in chance_RE], 2))
            stops.append(self._stops(states_NXW).cpu())
        chance_NER, stop_NER = torch.cat(chances), torch.cat(stops)
        return {
            "gates": [
                row(layer, rule, threshold, chance_NER[:, rank, index], stop_NER[:, rank, index])
                for index, rule in enumerate(self.rules)
                for rank, layer in enumerate(self.layers)
                for threshold in THRESHOLDS
            ]
        }


def row(layer: int, rule: str, threshold: float, chance_N: Tensor, stop_N: Tensor) -> Row:
    """What a gate with this threshold would let through: shares of tokens and of exits, from 0 to 1.

    `predicted` is the mean chance that it gives what it lets through, and `true` that of the rule there; None if it
    lets nothing through.
    """
    passes_N = chance_N >= threshold
    n_passed, exits = int(passes_N.sum()), stop_N.sum().item()
    passed = stop_N[passes_N].sum().item()
    return {
        "layer": layer,
        "rule": rule,
        "threshold": threshold,
        "exits": exits / len(stop_N),
        "read": n_passed / len(stop_N),
        "kept": passed / exits if exits else None,
        "predicted": chance_N[passes_N].mean().item() if n_passed else None,
        "true": passed / n_passed if n_passed else None,
    }
