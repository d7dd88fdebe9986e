"""Rules by definition, in plain loops over one token's layers: the part of the naive reference that decides.

Shapes: E exitable layers, V vocabulary, W width of the residual stream.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eexit.method.linear_predictors import LEAST_KL_FACTOR, LOG_KL_RANGE, Probe
from eexit.method.rules import RULES, ExitHistogram, LayerView


@dataclass(frozen=True)
class RuleInputs:
    """What a rule can look at, at one position: an oracle the full-depth pass, an online rule the student's own."""

    kls: list[float]  # of the exitable layers
    exit_logits: list[Tensor]
    final_logits: Tensor
    own_streams: list[Tensor]  # before layer 0, then after each layer
    own_logits: list[Tensor]  # of the exitable layers
    exitable_layers: tuple[int, ...]
    probe: Probe | None


Stops = tuple[list[float], list[float]]  # the chance to exit at each exitable layer, and what the rule saw there


def stop_by_kl(seen: RuleInputs, kl_factor: float) -> Stops:
    """2·sigmoid(−k·KL)."""
    return [2 / (1 + math.exp(min(kl_factor * kl, 700.0))) for kl in seen.kls], seen.kls


def stop_by_agreement(seen: RuleInputs, _: None) -> Stops:
    agrees = [float(logits.argmax() == seen.final_logits.argmax()) for logits in seen.exit_logits]
    return agrees, agrees


def stop_by_confidence(seen: RuleInputs, threshold: float) -> Stops:
    highest = [float(logits.float().softmax(-1).max()) for logits in seen.own_logits]
    return [float(p >= threshold) for p in highest], highest


def stop_by_margin(seen: RuleInputs, threshold: float) -> Stops:
    """1 at layers whose likeliest token is at least so much more probable than the next."""
    pairs = [logits.float().softmax(-1).topk(2).values.tolist() for logits in seen.own_logits]
    margins = [first - second for first, second in pairs]
    return [float(margin >= threshold) for margin in margins], margins


def stop_by_entropy(seen: RuleInputs, threshold: float) -> Stops:
    entropies = [float(torch.special.entr(logits.float().softmax(-1)).sum()) for logits in seen.own_logits]
    return [float(entropy <= threshold) for entropy in entropies], entropies


def stop_by_similarity(seen: RuleInputs, threshold: float) -> Stops:
    """1 at layers whose residual stream has at least this cosine with the stream before the layer."""
    cosines = [
        float(torch.cosine_similarity(seen.own_streams[layer], seen.own_streams[layer + 1], dim=0))
        for layer in seen.exitable_layers
    ]
    return [float(cosine >= threshold) for cosine in cosines], cosines


def stop_by_patience(seen: RuleInputs, layers_in_a_row: float) -> Stops:
    """1 at exitable layers that are at least the so-many-th in a row with the same likeliest token."""
    counts: list[float] = []
    for index, logits in enumerate(seen.own_logits):
        same = index > 0 and bool(logits.argmax() == seen.own_logits[index - 1].argmax())
        counts.append(counts[-1] + 1 if same else 1.0)
    return [float(count >= layers_in_a_row) for count in counts], counts


def stop_by_predicted_kl(seen: RuleInputs, kl_factor: float) -> Stops:
    """2·sigmoid(−k·KL) of the KL that a probe predicts: its log is linear in the hidden state and in log k."""
    assert seen.probe is not None
    kls = []
    for layer in seen.exitable_layers:
        layer_probe = seen.probe.maps[layer]
        *weights, power = layer_probe.weight[:, 0]
        log_kl = float(torch.dot(torch.stack(weights), seen.own_streams[layer + 1].float()) + layer_probe.bias)
        log_kl += float(power) * math.log(max(kl_factor, LEAST_KL_FACTOR))
        kls.append(math.exp(min(max(log_kl, LOG_KL_RANGE[0]), LOG_KL_RANGE[1])))
    return [2 / (1 + math.exp(min(kl_factor * kl, 700.0))) for kl in kls], kls


def stop_at_layer(seen: RuleInputs, layer: float) -> Stops:
    return [float(here == layer) for here in seen.exitable_layers], [math.nan] * len(seen.exitable_layers)


def stop_at_random(seen: RuleInputs, control: ExitHistogram) -> Stops:
    """Of the copied configuration's tokens that reached a layer, the share that exited there."""
    stops, left = [], sum(count for _, count in control.counts)
    for layer in seen.exitable_layers:
        here = dict(control.counts).get(layer, 0)
        stops.append(here / left if left else 0.0)
        left -= here
    return stops, [math.nan] * len(stops)


def stops_of(rule: str, seen: RuleInputs, parameter: Any) -> Stops:
    return STOPS[rule](seen, parameter) if rule in STOPS else stop_by_function(rule, seen, parameter)


def stop_by_function(rule: str, seen: RuleInputs, parameter: float | None) -> Stops:
    """What an own rule's function gives: a chance, or what is held against its parameter."""
    own, stops, evidence = RULES[rule], list[float](), list[float]()
    asked = torch.tensor([math.nan if parameter is None else parameter])
    for rank, (layer, logits) in enumerate(zip(seen.exitable_layers, seen.own_logits, strict=True)):
        p, so_far = logits.float().softmax(-1), [its.float().softmax(-1) for its in seen.own_logits[: rank + 1]]
        look = LayerView(
            layer, parameter=asked, hidden_in=seen.own_streams[layer][None],
            hidden_out=seen.own_streams[layer + 1][None],
            top2_prob=p.topk(2).values[None], entropy=torch.special.entr(p).sum()[None], top_token=p.argmax()[None],
            top2_prob_history=torch.stack([each.topk(2).values for each in so_far])[None],
            entropy_history=torch.stack([torch.special.entr(each).sum() for each in so_far])[None],
            top_token_history=torch.stack([each.argmax() for each in so_far])[None],
            hidden_history=torch.stack([seen.own_streams[its + 1] for its in seen.exitable_layers[: rank + 1]])[None],
            logits=logits[None], kl=torch.tensor(seen.kls[rank : rank + 1]),
            jsd=torch.tensor([js_divergence(seen.final_logits, each) for each in seen.exit_logits[rank : rank + 1]]),
            final_top_token=seen.final_logits.argmax()[None],
        )  # fmt: skip
        saw = float(own.function(look, asked) if own.takes_parameter else own.function(look))
        evidence.append(saw)
        met = saw if own.returns_chance else saw <= float(asked) if own.at_most else saw >= float(asked)
        stops.append(float(met))
    return stops, evidence


def js_divergence(final_logits_V: Tensor, exit_logits_V: Tensor) -> float:
    """Return the mean KL, in nats, of both distributions from their mean."""
    p_V, q_V = final_logits_V.double().softmax(-1), exit_logits_V.double().softmax(-1)
    mean_V = (p_V + q_V) / 2
    return float((torch.special.xlogy(p_V, p_V / mean_V) + torch.special.xlogy(q_V, q_V / mean_V)).sum() / 2)


STOPS: dict[str, Callable[[RuleInputs, Any], Stops]] = {
    "kl": stop_by_kl, "agree": stop_by_agreement, "confidence": stop_by_confidence, "margin": stop_by_margin,
    "entropy": stop_by_entropy, "similarity": stop_by_similarity, "patience": stop_by_patience,
    "predicted_kl": stop_by_predicted_kl, "fixed": stop_at_layer, "random": stop_at_random,
}  # fmt: skip
