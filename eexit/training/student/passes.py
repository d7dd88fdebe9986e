"""The passes of a student and of its teacher, which are one model, without its adapter and with it, and how far apart
they are at exits.

Logits are made a few positions at a time, so that memory does not grow with the vocabulary times the positions.

Shapes: N decided positions of some texts, C of them at a time, E exitable layers, W width of the residual stream, H
width of what the head takes, V vocabulary.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional as F

from eexit.decode.layer_reading import Reader, read_exits, rows_after
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding
from eexit.method.divergence import Divergence
from eexit.method.rules import ORACLES
from eexit.method.stick_breaking import choose_exits
from eexit.training.streams import compare
from eexit.training.student.frozen import LayerStack, Padded
from eexit.training.texts import Text

LOGITS_AT_A_TIME: Final = 1 << 23

Draw = Callable[[Sequence[Text]], Tensor]  # uniform draws, (N,), for the decided tokens of texts


@dataclass(frozen=True)
class LogitsReader(Reader):
    """Also the logits, in fp32, and how many positions' fit in memory together."""

    def logits(self, hidden_CW: Tensor, layer: int) -> Tensor:
        """Of streams after a layer, (C, V)."""
        return self.decoder.head(self.ready(hidden_CW, layer)).float()

    def logits_at(self, hidden_CW: Tensor, layer_C: Tensor) -> Tensor:
        """Of streams after a layer each, (C, V), by a single product with the head."""
        return self.decoder.head(
            self.ready_each(hidden_CW, rows_after(layer_C.cpu().numpy(), hidden_CW.device))
        ).float()

    def chunks(self, n: int) -> Iterator[slice]:
        """Slices of N positions whose logits fit in memory together."""
        size = max(1, LOGITS_AT_A_TIME // self.decoder.vocabulary)
        return (slice(start, start + size) for start in range(0, n, size))


def exit_gradients(
    reader: LogitsReader, teacher_NW: Tensor, hidden_NW: Tensor, exit_N: Tensor
) -> tuple[Tensor, Tensor]:
    """KL(teacher's final ‖ read at the exit), (N,), nats, and the gradient of their sum in the streams at the exits.

    The gradient in the logits is p_exit − p_teacher, which is exactly 0 where both are the same.
    """
    kl_N, gradient_NW = hidden_NW.new_empty(len(hidden_NW), dtype=torch.float32), torch.empty_like(hidden_NW)
    for chunk in reader.chunks(len(hidden_NW)):
        with torch.no_grad():
            log_p_CV = reader.logits(teacher_NW[chunk], reader.final).log_softmax(-1)
        hidden_CW = hidden_NW[chunk].detach().requires_grad_()
        logits_CV = reader.logits_at(hidden_CW, exit_N[chunk])
        log_q_CV = logits_CV.detach().log_softmax(-1)
        kl_N[chunk] = F.kl_div(log_q_CV, log_p_CV, reduction="none", log_target=True).sum(-1)
        (gradient_NW[chunk],) = torch.autograd.grad(logits_CV, hidden_CW, log_q_CV.exp_().sub_(log_p_CV.exp_()))
    return kl_N, gradient_NW


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
    def at_full_depth(self, texts: Sequence[Text]) -> Tensor:
        """The teacher's streams after the final layer, (N, W)."""
        return self._teachers(Padded.of(texts, self.reader.decoder.device), [self.reader.final])[self.reader.final]

    def _teachers(self, padded: Padded, at: Collection[int]) -> dict[int, Tensor]:
        with self.model.disable_adapter():
            return self.stack.streams(padded, at)

    @torch.no_grad()
    def teach(self, texts: Sequence[Text]) -> Taught:
        """Run the teacher over these texts, at full depth.

        Most of that would be reading exitable layers, so that the KLs of texts that were seen before are kept.
        """
        final, padded = self.reader.final, Padded.of(texts, self.reader.decoder.device)
        streams = self._teachers(padded, (*self.layers, final))
        if not all(text in self.known for text in texts):
            kl_NE = self.kls(streams, streams[final])
            self.known.update(zip(texts, kl_NE.split([len(text.token_ids) - 1 for text in texts]), strict=True))
        kl_NE = torch.cat([self.known[text] for text in texts]).to(self.reader.decoder.device)
        return Taught(padded, streams[final], kl_NE)

    def kls(self, streams: Mapping[int, Tensor], final_NW: Tensor) -> Tensor:
        """KL(final ‖ layer) of every exitable layer, (N, E), nats, given the streams after them; on the CPU."""
        states_NXW = torch.stack([*(streams[layer] for layer in self.layers), final_NW], 1)
        return compare(self.reader.decoder, self.reader.readout, self.layers, states_NXW).kl_BE

    def draw_exits(self, taught: Taught, kl_factor: float, u_N: Tensor) -> Tensor:
        """The layers, (N,), at which these draws exit, from the teacher's stick-breaking distribution."""
        chances = ORACLES["kl"].chances(taught.kl_NE, torch.full_like(taught.kl_NE, kl_factor))
        layer_X = torch.tensor([*self.layers, self.reader.final], device=u_N.device)
        return layer_X[choose_exits(chances, u_N)]

    def streams(self, taught: Taught, exit_N: Tensor, at: Collection[int]) -> dict[int, Tensor]:
        """The student's streams after the layers `at`, (N, W) each, with these exits in `frozen_residual`."""
        return self.stack.streams(taught.padded, at, exit_N)

    def learn(self, taught: Taught, exit_N: Tensor, n_step: int) -> Tensor:
        """Add to the adapter's gradients those of the sum of KLs at the exits, divided by `n_step`; the KLs, (N,)."""
        hidden_NW = self.streams(taught, exit_N, [self.reader.final])[self.reader.final]
        kl_N, gradient_NW = exit_gradients(self.reader, taught.final_NW, hidden_NW, exit_N)
        hidden_NW.backward(gradient_NW / n_step)
        return kl_N

    @torch.no_grad()
    def compare(self, taught: Taught, exit_N: Tensor) -> Divergence:
        """What the student says at these exits, beside what the teacher says after its final layer: X is 2."""
        hidden_NW = self.streams(taught, exit_N, [self.reader.final])[self.reader.final]
        decoding = Decoding(self.layers, 1, frozenset(), readout=self.reader.readout)
        decoders = Decoders.of(self.reader.decoder)
        return read_exits(decoders, decoding, hidden_NW, exit_N.cpu().numpy(), taught.final_NW)
