"""The passes of a student and of its teacher, which are one model: without its adapter, and with it.

Shapes: N decided positions of some texts, E exitable layers, W width of the residual stream.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from torch import Tensor

from eexit.method.rules import ORACLES
from eexit.method.stick_breaking import choose_exits
from eexit.training.student.exit_loss import AtExits, LogitsReader, layer_divergences, read_exits
from eexit.training.student.frozen import LayerStack, Padded
from eexit.training.texts import Text


@dataclass(frozen=True)
class Taught:
    """What the teacher says about some texts."""

    padded: Padded
    final_NW: Tensor  # its streams after the final layer
    kl_NE: Tensor  # KL(final ‖ layer), nats


@dataclass(frozen=True)
class Pair:
    """A student and its teacher."""

    model: PeftModel
    stack: LayerStack
    reader: LogitsReader
    layers: tuple[int, ...]  # the exitable ones
    known: dict[Text, Tensor] = field(default_factory=dict)  # KLs, (N, E), of texts that the teacher has seen

    @torch.no_grad()
    def teach(self, texts: Sequence[Text]) -> Taught:
        """Run the teacher over these texts, at full depth.

        Most of that would be reading exitable layers, so that the KLs of texts that were seen before are kept.
        """
        final, padded = self.reader.final, Padded.of(texts, self.reader.decoder.device)
        with self.model.disable_adapter():
            streams = self.stack.streams(padded, (*self.layers, final))
        if not all(text in self.known for text in texts):
            kl_NE = layer_divergences(self.reader, streams, self.layers, streams[final]).cpu()
            self.known.update(zip(texts, kl_NE.split([len(text.token_ids) - 1 for text in texts]), strict=True))
        kl_NE = torch.cat([self.known[text] for text in texts]).to(self.reader.decoder.device)
        return Taught(padded, streams[final], kl_NE)

    def draw_exits(self, taught: Taught, kl_factor: float, u_N: Tensor) -> Tensor:
        """The layers, (N,), at which these draws exit, from the teacher's stick-breaking distribution."""
        chances = ORACLES["kl"].chances(taught.kl_NE, torch.full_like(taught.kl_NE, kl_factor))
        layer_X = torch.tensor([*self.layers, self.reader.final], device=u_N.device)
        return layer_X[choose_exits(chances, u_N)]

    def streams(self, taught: Taught, exit_N: Tensor, at: Collection[int]) -> dict[int, Tensor]:
        """The student's streams after the layers `at`, (N, W) each, with these exits in `frozen_residual`."""
        return self.stack.streams(taught.padded, at, exit_N)

    def learn(self, taught: Taught, exit_N: Tensor, n_step: int) -> AtExits:
        """Add to the adapter's gradients those of the sum of KLs at the exits, divided by `n_step`."""
        hidden_NW = self.streams(taught, exit_N, [self.reader.final])[self.reader.final]
        read = read_exits(self.reader, taught.final_NW, hidden_NW, exit_N, learns=True)
        assert read.gradient_NW is not None
        hidden_NW.backward(read.gradient_NW / n_step)
        return read

    @torch.no_grad()
    def compare(self, taught: Taught, exit_N: Tensor) -> AtExits:
        """What the student says at these exits, beside the teacher."""
        hidden_NW = self.streams(taught, exit_N, [self.reader.final])[self.reader.final]
        return read_exits(self.reader, taught.final_NW, hidden_NW, exit_N, learns=False)
