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

from eexit.decode.layer_reading import Reader, rows_after
from eexit.method.rules import ORACLES
from eexit.method.stick_breaking import choose_exits
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


@torch.no_grad()
def layer_divergences(
    reader: LogitsReader, streams: Mapping[int, Tensor], layers: Sequence[int], teacher_NW: Tensor
) -> Tensor:
    """KL(final ‖ layer) of every layer, (N, E), in nats: the teacher's final streams, and streams after the layers."""
    kl_NE = teacher_NW.new_empty(len(teacher_NW), len(layers), dtype=torch.float32)
    for chunk in reader.chunks(len(teacher_NW)):
        teacher = _Teacher.of(reader.logits(teacher_NW[chunk], reader.final))
        for index, layer in enumerate(layers):
            kl_NE[chunk, index] = teacher.kl(reader.logits(streams[layer][chunk], layer).log_softmax(-1))
    return kl_NE


@dataclass(frozen=True)
class _Teacher:
    """The teacher's distribution at some positions."""

    p_CV: Tensor
    likeliest_C: Tensor
    expected_C: Tensor  # log-probability, nats: minus the entropy

    @classmethod
    def of(cls, logits_CV: Tensor) -> "_Teacher":
        log_p_CV = logits_CV.log_softmax(-1)
        p_CV = log_p_CV.exp()
        return cls(p_CV, log_p_CV.argmax(-1), torch.linalg.vecdot(p_CV, log_p_CV))

    def kl(self, log_q_CV: Tensor) -> Tensor:
        """KL from the teacher, (C,), in nats, as the difference of two expectations."""
        kl_C: Tensor = self.expected_C - torch.linalg.vecdot(self.p_CV, log_q_CV)
        return kl_C.clamp_min(0)


@dataclass(frozen=True)
class AtExits:
    """What is read at each position's exit, beside the teacher's final layer."""

    kl_N: Tensor  # KL(teacher's final ‖ read at the exit), nats
    agrees_N: Tensor  # whether the likeliest token is the teacher's
    gradient_NW: Tensor | None  # of the sum of kl_N, in the streams at the exits


def read_exits(reader: LogitsReader, teacher_NW: Tensor, hidden_NW: Tensor, exit_N: Tensor, learns: bool) -> AtExits:
    """Compare what is read at the exits with the teacher; with `learns`, the gradient too.

    The gradient in the logits is p_exit − p_teacher, which is exactly 0 where both are the same.
    """
    kl_N = hidden_NW.new_empty(len(hidden_NW), dtype=torch.float32)
    agrees_N = torch.empty_like(exit_N, dtype=torch.bool)
    gradient_NW = torch.empty_like(hidden_NW) if learns else None
    for chunk in reader.chunks(len(hidden_NW)):
        with torch.no_grad():
            teacher = _Teacher.of(reader.logits(teacher_NW[chunk], reader.final))
        hidden_CW = hidden_NW[chunk].detach().requires_grad_(learns)
        with torch.set_grad_enabled(learns):
            logits_CV = reader.logits_at(hidden_CW, exit_N[chunk])
        log_q_CV = logits_CV.detach().log_softmax(-1)
        kl_N[chunk] = teacher.kl(log_q_CV)
        agrees_N[chunk] = teacher.likeliest_C == log_q_CV.argmax(-1)
        if gradient_NW is not None:
            uphill_CV = log_q_CV.exp_().sub_(teacher.p_CV)
            (gradient_NW[chunk],) = torch.autograd.grad(logits_CV, hidden_CW, uphill_CV)
    return AtExits(kl_N, agrees_N, gradient_NW)


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
