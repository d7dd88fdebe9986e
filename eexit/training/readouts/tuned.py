"""`tuned`: the tuned lens (Belrose et al. 2023), h + h·A + b per layer before the model's own final norm and head.

It learns from KL(final ‖ layer) at the answers' tokens. As with Adam in the authors' repository
(AlignmentResearch/tuned-lens), the learning rate rises over the first fifth and then falls to 0 in a straight line, and
gradients are clipped. They start from zero, the logit lens, and take 250 steps of 2^18 tokens. A sweep has a few
thousand tokens, with which gradients do not get far from zero. So the first pass over the texts only adds up sums, from
which a ridge regression gives the map from the layer's stream to the final one; gradients start from there. And since a
stream has a few directions of huge variance, in which plain Adam crawls, they act in a basis in which the stream is
white.

Shapes: N tokens, E exitable layers, X = E + 1 with the final layer last, W width of the residual stream, H width of
what the head takes, V vocabulary.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from eexit.method.readouts import Affine
from eexit.model.decoder import Decoder
from eexit.training.readouts.affine import ReadoutTrainer
from eexit.training.ridge import SplitSums, best_fit
from eexit.training.setup import Setup
from eexit.training.streams import compare_texts, streams
from eexit.training.texts import Text, n_tokens

WARM_UP: Final = 0.2  # of the tokens whose gradients are taken
CLIP_NORM: Final = 1.0  # per layer
WEIGHT_DECAY: Final = 1e-3
DAMPING: Final = 1e-3  # of the directions' mean variance, added to each before the stream is made white


class TunedTrainer(ReadoutTrainer):
    """Learns A and b of all layers side by side; a step learns from tokens of all texts of a block, mixed."""

    optimiser: torch.optim.Adam
    own = ("mean_EW", "white_EWW", "start_EWW", "start_EW", "map_EWW", "bias_EW")

    def __init__(self, setup: Setup):
        super().__init__(setup)
        options = setup.options
        assert options.passes
        assert options.learning_rate
        self.rate = options.learning_rate
        self.passes = options.passes + 1
        self.total = min(self.passes * self.per_pass, options.most_tokens or sys.maxsize)
        zeros_EW = torch.zeros(len(self.layers), self.decoder.width, device=self.decoder.device)
        zeros_EWW = torch.diag_embed(zeros_EW)
        self.mean_EW, self.white_EWW = zeros_EW, zeros_EWW
        self.start_EW, self.start_EWW = torch.zeros_like(zeros_EW), torch.zeros_like(zeros_EWW)  # b and A
        self.map_EWW = torch.zeros_like(zeros_EWW, requires_grad=True)  # of the white stream
        self.bias_EW = torch.zeros_like(zeros_EW, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.map_EWW, self.bias_EW], weight_decay=WEIGHT_DECAY)

    def train(self, block: Sequence[Text]) -> float | None:
        if self.seen < self.per_pass:
            self._measure(block)
            return None
        states_NXW = streams(self.decoder, block, self.layers)
        generator = torch.Generator().manual_seed(hash((self.options.seed, self.seen)))
        order_N = torch.randperm(len(states_NXW), generator=generator).to(states_NXW.device)
        steps = order_N.split(self.options.tokens_per_step or len(order_N))
        losses = [self._step(states_NXW[step_N]) * len(step_N) for step_N in steps]
        return sum(losses) / len(order_N)

    def _step(self, states_NXW: Tensor) -> float:
        """One step of the optimiser; the mean loss of the layers."""
        done = (self.seen - self.per_pass) / (self.total - self.per_pass)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * max(0.0, min(done / WARM_UP, (1 - done) / (1 - WARM_UP)))
        self.seen += len(states_NXW)
        with torch.no_grad():
            log_p_NV = self.decoder.head(self.decoder.normed(states_NXW[:, -1])).float().log_softmax(-1)
        total = 0.0
        for rank in range(len(self.layers)):  # one after the other, so that logits of one layer are there at a time
            loss = kl_loss(self.decoder, self._ready(states_NXW[:, rank], rank), log_p_NV)
            loss.backward()
            total += loss.item()
        self._clip()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return total / len(self.layers)

    def _clip(self) -> None:
        """Scale each layer's gradients down to norm CLIP_NORM, if they are larger."""
        for rank in range(len(self.layers)):
            grads = [parameter.grad[rank] for parameter in (self.map_EWW, self.bias_EW) if parameter.grad is not None]
            norm = torch.stack([grad.norm() for grad in grads]).norm()
            for grad in grads:
                grad.mul_((CLIP_NORM / norm).clamp(max=1.0))

    def _measure(self, block: Sequence[Text]) -> None:
        """Add to the sums; once all texts are in them, find where to start."""
        self.add_sums(block, _to_the_final_one)
        self.seen += n_tokens(block)
        if self.seen == self.per_pass:
            self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Each layer's map from its stream to the final one, and the basis in which its stream is white."""
        for rank, layer in enumerate(self.layers):
            learn, choose = self.sums.of(layer)
            lens_WW = torch.eye(self.decoder.width, dtype=torch.float64)
            map_JW = best_fit(learn, choose, [lens_WW, torch.zeros_like(lens_WW)])
            self.start_EWW[rank], self.start_EW[rank] = (map_JW[1:] - lens_WW).to(self.start_EW), map_JW[0]
            sums = learn + choose
            variance_W, axes_WW = torch.linalg.eigh(sums.covariance_DD)
            scale_W = (variance_W.clamp_min(0) + DAMPING * variance_W.mean()).rsqrt()
            self.white_EWW[rank] = (axes_WW * scale_W).to(self.white_EWW)
            self.mean_EW[rank] = sums.mean_D.to(self.mean_EW)
        self.sums = SplitSums()

    def _ready(self, hidden_NW: Tensor, rank: int) -> Tensor:
        """The input of the head, with gradients."""
        white_NW = (hidden_NW.float() - self.mean_EW[rank]) @ self.white_EWW[rank]
        started_NW = hidden_NW.float() + hidden_NW.float() @ self.start_EWW[rank] + self.start_EW[rank]
        moved_NW = started_NW + white_NW @ self.map_EWW[rank] + self.bias_EW[rank]
        return self.decoder.normed(moved_NW.to(self.decoder.dtype))

    @torch.no_grad()
    def of_layer(self) -> Mapping[int, Affine]:
        """A and b in the stream's own basis."""
        learned_EWW = self.white_EWW @ self.map_EWW
        weight_EWW = self.start_EWW + learned_EWW
        bias_EW = self.start_EW + self.bias_EW - (self.mean_EW[:, None] @ learned_EWW)[:, 0]
        return {layer: (weight_EWW[rank], bias_EW[rank]) for rank, layer in enumerate(self.layers)}

    def held_out_loss(self, texts: Sequence[Text]) -> float:
        readouts = {"tuned": self.readout()}
        return compare_texts(self.decoder, readouts, self.layers, texts)["tuned"].kl_BE.mean().item()


def _to_the_final_one(states_NXW: Tensor) -> list[tuple[Tensor, Tensor]]:
    *streams_NW, final_NW = states_NXW.unbind(1)
    return [(stream_NW, final_NW) for stream_NW in streams_NW]


def kl_loss(decoder: Decoder, ready_NH: Tensor, log_p_NV: Tensor) -> Tensor:
    """The mean KL(final ‖ layer), nats, given the inputs of the head for the layer."""
    log_q_NV = decoder.head(ready_NH).float().log_softmax(-1)
    return F.kl_div(log_q_NV, log_p_NV, reduction="batchmean", log_target=True)
