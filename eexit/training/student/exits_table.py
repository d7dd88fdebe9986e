"""The card's table of a student's exits: what is read there, before the training and after it.

Shapes: N decided tokens of some texts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from eexit.training.setup import KL_FACTORS
from eexit.training.streams import Row
from eexit.training.student.exit_loss import AtExits
from eexit.training.student.passes import Pair
from eexit.training.texts import Text

Draw = Callable[[Sequence[Text]], Tensor]  # uniform draws, (N,), for the decided tokens of texts


def exits_table(pair: Pair, some_texts: Sequence[Sequence[Text]], draw: Draw) -> list[Row]:
    """At each KL factor, before and after: a row for all tokens (layer None), and one per exit layer.

    Before is the base model itself, with the same exits and what they leave. KLs are from the teacher's final layer, in
    nats, and agreement is how often the likeliest token is the teacher's.
    """
    found: dict[tuple[float, str], list[tuple[Tensor, AtExits]]] = {}
    for texts in some_texts:
        taught, u_N = pair.teach(texts), draw(texts)
        for factor in KL_FACTORS:
            exit_N = pair.draw_exits(taught, factor, u_N)
            for when, context in (("before", pair.model.disable_adapter()), ("after", nullcontext())):
                with context:
                    read = pair.compare(taught, exit_N)
                found.setdefault((factor, when), []).append((exit_N, read))
    return [row for (factor, when), parts in found.items() for row in _rows(factor, when, parts)]


def _rows(factor: float, when: str, parts: Sequence[tuple[Tensor, AtExits]]) -> Iterator[Row]:
    exit_N = torch.cat([exit_N for exit_N, _ in parts])
    kl_N = torch.cat([read.kl_N for _, read in parts])
    agrees_N = torch.cat([read.agrees_N for _, read in parts]).float()
    for layer in (None, *exit_N.unique().tolist()):
        counted_N = torch.ones_like(exit_N, dtype=torch.bool) if layer is None else exit_N == layer
        yield {
            "kl_factor": factor,
            "when": when,
            "layer": layer,
            "n": int(counted_N.sum()),
            "mean_kl": kl_N[counted_N].mean().item(),
            "median_kl": kl_N[counted_N].median().item(),
            "agreement": agrees_N[counted_N].mean().item(),
        }
