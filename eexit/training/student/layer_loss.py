"""The loss at layers: KL(teacher's final ‖ read) at the final layer and at one exitable layer, which take turns.

As in LayerSkip (Elhoushi et al. 2024), the earliest layers have their turn first, and the deeper ones join them. What
the final layer says comes before all: its loss weighs more in each step after one in which it said too often what the
teacher doesn't. The teacher's distribution is remembered as its likeliest tokens and the mass of all others together,
so that it runs once over each text. The KL between such coarser distributions is at most the whole one.

Shapes: N decided positions of some texts, C of them at a time, K likeliest tokens, W width of the residual stream, V
vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from eexit.training.student.frozen import Padded
from eexit.training.student.passes import Pair
from eexit.training.texts import Text

REMEMBERED: Final = 64  # of the teacher's likeliest tokens
FINAL_AGREEMENT: Final = 0.97  # of the final layer with the teacher, below which its loss weighs more
HEAVIER, LIGHTER = 1.15, 0.97  # times, after a step below it and above
MOST_WEIGHT: Final = 50.0
GROWING: Final = 0.25  # of the training, until all layers have their turn
LEAST_MASS: Final = 1e-6  # of the tokens that are not remembered, below which it is taken to be none


@dataclass(frozen=True)
class Said:
    """What the teacher says at some positions: its likeliest tokens, in order, and their probabilities."""

    id_NK: Tensor
    p_NK: Tensor

    @classmethod
    def of(cls, logits_NV: Tensor) -> "Said":
        p_NK, id_NK = logits_NV.softmax(-1).topk(min(REMEMBERED, logits_NV.shape[-1]))
        return cls(id_NK, p_NK)

    @classmethod
    def joined(cls, parts: "Sequence[Said]") -> "Said":
        return cls(torch.cat([part.id_NK for part in parts]), torch.cat([part.p_NK for part in parts]))

    def __getitem__(self, rows: slice) -> "Said":
        return Said(self.id_NK[rows], self.p_NK[rows])

    def to(self, device: torch.device) -> "Said":
        return Said(self.id_NK.to(device), self.p_NK.to(device))

    def compare(self, logits_NV: Tensor) -> "BesideTeacher":
        """With what a student says at these positions, no others among them."""
        log_q_NV = logits_NV.log_softmax(-1)
        log_q_NK = log_q_NV.gather(-1, self.id_NK)
        rest_p_N, rest_q_N = (1 - p_NK.sum(-1) for p_NK in (self.p_NK, log_q_NK.exp()))
        has_rest_N, rest_q_N = rest_p_N > LEAST_MASS, rest_q_N.clamp_min(LEAST_MASS)
        share_N = torch.where(has_rest_N, rest_p_N / rest_q_N, 0.0)
        kl_N = (self.p_NK * (self.p_NK.clamp_min(1e-30).log() - log_q_NK)).sum(-1)
        kl_N = kl_N + torch.where(has_rest_N, rest_p_N * share_N.clamp_min(1e-30).log(), 0.0)
        agrees_N = log_q_NV.argmax(-1) == self.id_NK[:, 0]
        uphill_NV = log_q_NV.exp_().mul_(1 - share_N[:, None])
        uphill_NV.scatter_(-1, self.id_NK, log_q_NK.exp() - self.p_NK)
        return BesideTeacher(kl_N.clamp_min(0), agrees_N, uphill_NV)


@dataclass(frozen=True)
class BesideTeacher:
    """Of each position: the KL from the teacher, nats, whether the likeliest token is the teacher's, and the gradient
    of the KL in the logits, (N, V).
    """

    kl_N: Tensor
    agrees_N: Tensor
    uphill_NV: Tensor


@dataclass(frozen=True)
class StepSeen:
    """What a step saw at the exitable layer and at the final one: KLs, nats, and whether tokens are the teacher's."""

    kl_N: Tensor
    final_kl_N: Tensor
    final_agrees_N: Tensor


@dataclass
class LayerLoss:
    """The loss of a student; `weight` is that of the final layer, beside 1 for the other one."""

    pair: Pair
    weight: float = 1.0
    known: dict[Text, Said] = field(default_factory=dict)  # on the CPU

    def layer(self, step: int, done: float) -> int:
        """Whose turn it is in the step of this number, of those at layers, if so much of the training is done."""
        layers = self.pair.layers
        n_joined = min(len(layers), 1 + math.ceil(len(layers) * done / GROWING))
        return layers[step % n_joined]

    def learn(self, texts: Sequence[Text], layer: int, n_step: int) -> StepSeen:
        """Add to the adapter's gradients those of the two sums of KLs, divided by `n_step`."""
        pair, said = self.pair, self.said(texts)
        layers = (layer, pair.reader.final)
        streams = pair.stack.streams(Padded.of(texts, pair.reader.decoder.device), layers)
        seen = [_read(pair, said, streams[each], each) for each in layers]
        weights = [weight / n_step for weight in (1.0, self.weight)]
        torch.autograd.backward(
            [streams[each] for each in layers],
            [weight * gradient_NW for weight, (_, _, gradient_NW) in zip(weights, seen, strict=True)],
        )
        return StepSeen(seen[0][0], *seen[1][:2])

    def weigh(self, final_agreement: float) -> None:
        """Weigh the final layer by how often it said what the teacher says, a fraction, in the step before."""
        factor = HEAVIER if final_agreement < FINAL_AGREEMENT else LIGHTER
        self.weight = min(max(self.weight * factor, 1.0), MOST_WEIGHT)

    @torch.no_grad()
    def said(self, texts: Sequence[Text]) -> Said:
        """What the teacher says at the decided positions of these texts."""
        if not all(text in self.known for text in texts):
            reader = self.pair.reader
            final_NW = self.pair.at_full_depth(texts)
            said = [Said.of(reader.logits(final_NW[chunk], reader.final)) for chunk in reader.chunks(len(final_NW))]
            self.known.update(zip(texts, _by_text(Said.joined(said).to(torch.device("cpu")), texts), strict=True))
        return Said.joined([self.known[text] for text in texts]).to(self.pair.reader.decoder.device)


def _by_text(said: Said, texts: Sequence[Text]) -> Iterator[Said]:
    start = 0
    for text in texts:
        n = len(text.token_ids) - 1
        yield said[start : start + n]
        start += n


def _read(pair: Pair, said: Said, hidden_NW: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """The KLs at these streams after a layer, whether tokens are the teacher's, and the gradient of the KLs' sum."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for chunk in pair.reader.chunks(len(hidden_NW)):
        hidden_CW = hidden_NW[chunk].detach().requires_grad_()
        logits_CV = pair.reader.logits(hidden_CW, layer)
        with torch.no_grad():
            compared = said[chunk].compare(logits_CV)
        (gradient_CW,) = torch.autograd.grad(logits_CV, hidden_CW, compared.uphill_NV)
        found.append((compared.kl_N, compared.agrees_N, gradient_CW))
    kl_N, agrees_N, gradient_NW = (torch.cat(parts) for parts in zip(*found, strict=True))
    return kl_N, agrees_N, gradient_NW
