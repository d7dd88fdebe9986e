"""`gate`: the probability that a rule exits at a layer, predicted linearly from the layer's hidden state.

One pass over the texts reads every layer and accumulates a ridge regression of the rules' exit probabilities. Logistic
regression on the validation texts (Platt 1999) turns the predictions into probabilities.

Shapes: R rules, J = D + 1 with a constant 1 in front.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from eexit.decode.predictors import LMHead, predictors
from eexit.decode.requests import DecodingConfig
from eexit.method.linear_map import LinearMap
from eexit.method.linear_predictors import Gate
from eexit.method.rules import ONLINE, LayerView
from eexit.plan.artefacts import CardRow
from eexit.training.hidden_states import BLOCK_TOKENS, decided_hidden_states, hidden_states
from eexit.training.probes.calibration import calibrate_odds
from eexit.training.ridge import Moments, SplitMoments, best_fit
from eexit.training.texts import TrainingText, blocks
from eexit.training.trainer_inputs import TrainerInputs, rule_and_parameter

THRESHOLDS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # in the card's table


class GateTrainer:
    """Trainer of the gates of all rules and exitable layers at once."""

    def __init__(self, setup: TrainerInputs):
        self.decoder, self.layers, self.rules = setup.decoder, setup.options.layers, setup.options.rules
        self.choosing = [text for text in setup.texts if text.chooses]
        self.decoding = DecodingConfig(tuple(self.layers), 1, frozenset(), readout=setup.readout)
        self.gate = Gate({}, self.rules)

    def pairs(self, texts: Sequence[TrainingText]) -> Iterable[tuple[str, Tensor, Tensor]]:
        hidden_NXD = hidden_states(self.decoder, texts, self.layers)
        stop_NER = self._stops(hidden_NXD)
        for rank, layer in enumerate(self.layers):
            yield str(layer), hidden_NXD[:, rank], stop_NER[:, rank]

    def _stops(self, hidden_NXD: Tensor) -> Tensor:
        """Return the rules' exit probabilities at each layer, (N, E, R)."""
        n_tokens, device = len(hidden_NXD), hidden_NXD.device
        predict = predictors(LMHead(self.decoder, self.decoding), keeps_logits=True)["head_reads"]
        stop_ERN: list[list[Tensor]] = []
        for rank, layer in enumerate(self.layers):
            hidden_ND = hidden_NXD[:, rank]
            values = predict(LayerView(layer, hidden_out=hidden_ND), None)
            stop_ERN.append([])
            for name, parameter in map(rule_and_parameter, self.rules):
                rule, [threshold] = ONLINE[name], ONLINE[name].per_layer(parameter, [layer])
                parameter_N = torch.full((n_tokens,), threshold, device=device)
                look = LayerView(layer, hidden_out=hidden_ND, parameter=parameter_N, **values).view_for(
                    rule.needs, slice(None)
                )
                chances = rule.chances(rule.exit_score(look)[:, None], parameter_N[:, None])
                stop_ERN[-1].append(chances.exit_BE[:, 0])
        return torch.stack([torch.stack(stop_RN, 1) for stop_RN in stop_ERN], 1)

    @torch.no_grad()
    def solve(self, sums: SplitMoments) -> Mapping[str, Tensor]:
        """Fit the regressions, and calibrate their predictions on the validation texts.

        Set `gate` to the result, and return the gate's tensors.
        """
        seen, stops = [], []
        fitted = [self._fit(*sums.moments_of(str(layer))) for layer in self.layers]
        for block in blocks(self.choosing, BLOCK_TOKENS):
            hidden_NXD = hidden_states(self.decoder, block, self.layers)
            streams_E = hidden_NXD.cpu().double().unbind(1)[:-1]
            seen.append(torch.stack([s @ m[1:] + m[0] for s, m in zip(streams_E, fitted, strict=True)], 1))
            stops.append(self._stops(hidden_NXD).cpu())
        seen_NER, stop_NER = torch.cat(seen), torch.cat(stops)
        gates = {}
        for rank, layer in enumerate(self.layers):
            scale_R, shift_R = calibrate_odds(seen_NER[:, rank], stop_NER[:, rank])
            map_JR = fitted[rank]
            gates[layer] = LinearMap((map_JR[1:] * scale_R).float(), (map_JR[0] * scale_R + shift_R).float())
        self.gate = Gate(gates, self.rules)
        return self.gate.tensors()

    def _fit(self, learn: Moments, choose: Moments) -> Tensor:
        """Return a layer's ridge regressions, (J, R), one per rule, each with a penalty of its own."""
        prior_D1 = torch.zeros_like(learn.both_JH[1:, :1])
        maps = [
            best_fit(learn.targets(of_rule), choose.targets(of_rule), [prior_D1], refit=False)
            for of_rule in (slice(index, index + 1) for index in range(len(self.rules)))
        ]
        return torch.cat(maps, 1)

    @torch.inference_mode()
    def table(self, texts: Sequence[TrainingText]) -> list[CardRow]:
        """Return, for each threshold, the share of tokens that pass the gate, and of the rule's exits that pass it."""
        gate, chances, stops = self.gate.to(self.decoder.device), [], []
        for hidden_NXD in decided_hidden_states(self.decoder, texts, self.layers):
            chance_RE = [
                [gate.chance(hidden_NXD[:, rank], layer, rule).cpu() for rank, layer in enumerate(self.layers)]
                for rule in self.rules
            ]
            chances.append(torch.stack([torch.stack(chance_E, 1) for chance_E in chance_RE], 2))
            stops.append(self._stops(hidden_NXD).cpu())
        chance_NER, stop_NER = torch.cat(chances), torch.cat(stops)
        return [
            card_row(layer, rule, threshold, chance_NER[:, rank, index], stop_NER[:, rank, index])
            for index, rule in enumerate(self.rules)
            for rank, layer in enumerate(self.layers)
            for threshold in THRESHOLDS
        ]


def card_row(layer: int, rule: str, threshold: float, chance_N: Tensor, stop_N: Tensor) -> CardRow:
    passes_N = chance_N >= threshold
    exits, passed = stop_N.sum().item(), stop_N[passes_N].sum().item()
    taken = passes_N.double().mean().item()
    return CardRow(
        layer=layer, series=rule, at=threshold, n=len(stop_N), taken=taken, kept=passed / exits if exits else None
    )
