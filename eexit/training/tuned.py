"""`tuned`: the tuned lens (Belrose et al. 2023), h + h·A + b per layer before the model's own final norm and head.

It starts at zero, which is the logit lens, and learns from KL(final ‖ layer) at the answers' tokens. As with Adam in
the authors' repository (AlignmentResearch/tuned-lens), the learning rate rises over the first fifth and then falls to 0
in a straight line, and gradients are clipped. They take 250 steps of 2^18 tokens; a sweep has a few thousand tokens, so
that what counts is how far few, small steps get. A stream has a few directions of huge variance, in which plain Adam
crawls: what is learned takes the stream in a basis in which it is white, and gives standard deviations of the final
stream. Written is A, in the stream's own basis and units.

Shapes: N tokens, E exitable layers, X = E + 1 with the final layer last, W width of the residual stream, H width of
what the head takes, V vocabulary.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from eexit.anatomy import Decoder
from eexit.readouts import Affine
from eexit.training.affine import affine_tensors, readout_of, readout_tables
from eexit.training.held_out import BLOCK_TOKENS, compare_texts
from eexit.training.ridge import Sums
from eexit.training.saving import optimiser_tensors, restore_optimiser
from eexit.training.setup import Setup
from eexit.training.streams import streams
from eexit.training.texts import Text, blocks, n_tokens
from eexit.training.trainers import Tables

WARM_UP: Final = 0.2  # of the tokens to learn from
CLIP_NORM: Final = 1.0  # per layer
WEIGHT_DECAY: Final = 1e-3
DAMPING: Final = 1e-3  # of the directions' mean variance, added to each before the stream is made white
OWN: Final = ("seen", "mean_EW", "white_EWW", "scale_W", "map_EWW", "bias_EW")  # tensors of a trainer's state
WHITENING_TOKENS: Final = 8  # per dimension of the stream, from which its covariance is estimated


class TunedTrainer:
    """Learns A and b of all layers side by side; a step learns from tokens of all texts of a block, mixed."""

    def __init__(self, setup: Setup):
        self.settings = its = setup.settings.with_defaults()
        assert its.passes
        assert its.learning_rate
        self.decoder, self.layers, self.texts = setup.decoder, its.layers, setup.texts
        self.passes, self.rate = its.passes, its.learning_rate
        self.total = min(its.passes * n_tokens(setup.texts), its.most_tokens or sys.maxsize)
        self.seen = torch.zeros((), dtype=torch.long)  # tokens
        zeros_EW = torch.zeros(len(self.layers), self.decoder.width, device=self.decoder.device)
        self.mean_EW, self.white_EWW = zeros_EW, torch.diag_embed(zeros_EW)
        self.scale_W = torch.ones_like(zeros_EW[0])  # standard deviations of the final stream
        self.map_EWW = torch.zeros_like(self.white_EWW, requires_grad=True)  # from the white stream
        self.bias_EW = torch.zeros_like(zeros_EW, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.map_EWW, self.bias_EW], weight_decay=WEIGHT_DECAY)

    def train(self, block: Sequence[Text]) -> float:
        if not self.seen:
            self._whiten()
        states_NXW = streams(self.decoder, block, self.layers)
        generator = torch.Generator().manual_seed(hash((self.settings.seed, int(self.seen))))
        order_N = torch.randperm(len(states_NXW), generator=generator).to(states_NXW.device)
        steps = order_N.split(self.settings.tokens_per_step or len(order_N))
        losses = [self._step(states_NXW[its_N]) * len(its_N) for its_N in steps]
        return sum(losses) / len(order_N)

    def _step(self, states_NXW: Tensor) -> float:
        """One step of the optimiser; the mean loss of the layers."""
        done = int(self.seen) / self.total
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

    @torch.no_grad()
    def _whiten(self) -> None:
        """Find the bases in which streams are white, and the final one's scale, from texts all over the data."""
        wanted = WHITENING_TOKENS * self.decoder.width
        some = self.texts[:: max(1, n_tokens(self.texts) // wanted)]
        sums: dict[int, Sums] = {}
        for block in blocks(some, BLOCK_TOKENS):
            states_NXW = streams(self.decoder, block, self.layers)
            for rank, hidden_NW in enumerate(states_NXW.unbind(1)):
                its = Sums.of(hidden_NW, hidden_NW[:, :0])
                sums[rank] = sums[rank] + its if rank in sums else its
        self.scale_W.copy_(sums.pop(len(self.layers)).std_D)
        for rank, its in sums.items():
            variance_W, axes_WW = torch.linalg.eigh(its.covariance_DD)
            scale_W = (variance_W.clamp_min(0) + DAMPING * variance_W.mean()).rsqrt()
            self.white_EWW[rank] = (axes_WW * scale_W).to(self.white_EWW)
            self.mean_EW[rank] = its.mean_D.to(self.mean_EW)

    def _ready(self, hidden_NW: Tensor, rank: int) -> Tensor:
        """The input of the head, with gradients."""
        white_NW = (hidden_NW.float() - self.mean_EW[rank]) @ self.white_EWW[rank]
        added_NW = (white_NW @ self.map_EWW[rank] + self.bias_EW[rank]) * self.scale_W
        return self.decoder.normed((hidden_NW.float() + added_NW).to(self.decoder.dtype))

    @torch.no_grad()
    def _of_layer(self) -> dict[int, Affine]:
        """A and b in the stream's own basis."""
        weight_EWW = self.white_EWW @ self.map_EWW * self.scale_W
        bias_EW = self.bias_EW * self.scale_W - (self.mean_EW[:, None] @ weight_EWW)[:, 0]
        return {layer: (weight_EWW[rank], bias_EW[rank]) for rank, layer in enumerate(self.layers)}

    def state(self) -> dict[str, Tensor]:
        own = {name: getattr(self, name) for name in OWN}
        return own | optimiser_tensors(self.optimiser)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name in OWN:
            getattr(self, name).copy_(state[name])
        restore_optimiser(self.optimiser, state)

    def finish(self) -> None:
        """Nothing is left to be done."""

    def weights(self) -> dict[str, Tensor]:
        return affine_tensors(self._of_layer())

    def save_further(self, folder: Path) -> None:
        """Nothing."""

    def held_out_loss(self, texts: Sequence[Text]) -> float:
        readout = readout_of("tuned", self._of_layer(), self.decoder)
        return compare_texts(self.decoder, {"tuned": readout}, self.layers, texts)["tuned"].kl_NE.mean().item()

    def tables(self, texts: Sequence[Text]) -> Tables:
        readout = readout_of("tuned", self._of_layer(), self.decoder)
        return readout_tables("tuned", readout, self.decoder, self.layers, texts)


def kl_loss(decoder: Decoder, ready_NH: Tensor, log_p_NV: Tensor) -> Tensor:
    """The mean KL(final ‖ layer), nats, given the inputs of the head for the layer."""
    log_q_NV = decoder.head(ready_NH).float().log_softmax(-1)
    return F.kl_div(log_q_NV, log_p_NV, reduction="batchmean", log_target=True)
