"""A student's learning curve: what its layers say of held-out texts after more and more tokens.

Shapes: N decided positions of some texts, E exitable layers, X = E + 1 with the final layer last, P points.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from eexit.training.streams import Row
from eexit.training.student.frozen import Padded
from eexit.training.student.layer_loss import LayerLoss
from eexit.training.texts import Text

FIRST: Final = 1000  # tokens, after which there is a point; then after twice as many, and so on
MOST_POINTS: Final = 24
LARGE, TRIES = 1024, 5  # of matrices, and products of them, that tell how fast this machine multiplies


@dataclass(frozen=True)
class Point:
    """After so many tokens and seconds: how often each layer's likeliest token is the teacher's, final layer last, mean
    KLs from the teacher, nats, and the layers that are skipped if each token leaves at the first layer that agrees, a
    fraction of all. `multiplying` is the fraction of the seconds that the products alone would have taken, at the speed
    at which this machine multiplies large matrices; `n` counts the held-out tokens.
    """

    tokens: int
    seconds: float
    multiplying: float
    n: int
    skipped: float
    agreement_X: tuple[float, ...]
    mean_kl_X: tuple[float, ...]

    def numbers(self) -> list[float]:
        return [self.tokens, self.seconds, self.multiplying, self.n, self.skipped, *self.agreement_X, *self.mean_kl_X]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Point":
        (tokens, seconds, multiplying, n, skipped), rest = numbers[:5], numbers[5:]
        half = len(rest) // 2
        return cls(int(tokens), seconds, multiplying, int(n), skipped, tuple(rest[:half]), tuple(rest[half:]))

    def rows(self, layers: Sequence[int]) -> list[Row]:
        """One for all layers together (None), and one for each, the final one last."""
        same = {"tokens": self.tokens, "seconds": self.seconds}
        every = zip(layers, self.agreement_X, self.mean_kl_X, strict=True)
        whole = {"skipped": self.skipped, "multiplying": self.multiplying, "n": self.n}
        return [
            {**same, "layer": None, "agreement": None, "mean_kl": None, **whole},
            *({**same, "layer": layer, "agreement": agreement, "mean_kl": kl} for layer, agreement, kl in every),
        ]


class Curve:
    """The points so far, kept in one tensor (MOST_POINTS, 5 + 2X), NaN where none is yet."""

    def __init__(self, n_layers: int):
        self.points_PC = torch.full((MOST_POINTS, 5 + 2 * n_layers), math.nan, dtype=torch.float64)

    @property
    def points(self) -> list[Point]:
        return [Point.of(row) for row in self.points_PC.tolist() if not math.isnan(row[0])]

    def is_due(self, tokens: int) -> bool:
        """Whether there is to be a point after so many tokens."""
        if not (points := self.points):
            return True
        due = FIRST
        while due <= points[-1].tokens:
            due *= 2
        return tokens >= due and len(points) < MOST_POINTS

    def add(self, point: Point) -> None:
        self.points_PC[len(self.points)] = torch.tensor(point.numbers(), dtype=torch.float64)

    def gain(self) -> float | None:
        """How much more often exitable layers agreed at the last point than at half its tokens, in points, on average
        over the layers; None before there are two points after the beginning.
        """
        latest = [point for point in self.points if point.tokens][-2:]
        if len(latest) < 2:
            return None
        before, last = latest
        return (
            100
            * sum(now - then for now, then in zip(last.agreement_X[:-1], before.agreement_X[:-1], strict=True))
            / (len(last.agreement_X) - 1)
        )


def multiply_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in products of large matrices, the most of a few."""
    matrix = torch.ones(LARGE, LARGE, device=device, dtype=dtype)
    seconds = []
    for _ in range(TRIES):
        began = time.monotonic()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        seconds.append(time.monotonic() - began)
    return float(2 * LARGE**3 / min(seconds))


@torch.no_grad()
def measure(
    loss: LayerLoss, some_texts: Sequence[Sequence[Text]]
) -> tuple[int, float, tuple[float, ...], tuple[float, ...]]:
    """How many tokens of these texts are decided, the layers skipped, and agreement and mean KL by layer, (X,)."""
    reader = loss.pair.reader
    layers = (*loss.pair.layers, reader.final)
    agrees: list[Tensor] = []
    kls: list[Tensor] = []
    for texts in some_texts:
        said = loss.said(texts)
        streams = loss.pair.stack.streams(Padded.of(texts, reader.decoder.device), layers)
        for chunk in reader.chunks(len(said.id_NK)):
            compared = [said[chunk].compare(reader.logits(streams[layer][chunk], layer)) for layer in layers]
            agrees.append(torch.stack([each.agrees_N for each in compared], 1))
            kls.append(torch.stack([each.kl_N for each in compared], 1))
    agrees_NX, kl_NX = torch.cat(agrees), torch.cat(kls)
    leaves_NX = agrees_NX.clone()
    leaves_NX[:, -1] = True  # whatever it says
    first_N = torch.tensor(layers)[leaves_NX.int().argmax(1).cpu()]
    skipped = 1 - (first_N.double() + 1).mean().item() / (reader.final + 1)
    return len(first_N), skipped, tuple(agrees_NX.double().mean(0).tolist()), tuple(kl_NX.double().mean(0).tolist())
