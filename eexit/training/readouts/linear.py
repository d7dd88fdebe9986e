"""`linear`: a linear map per layer from its normalised stream to the final one's, by closed-form ridge regression.

After Yom Din et al. 2023 ("Jump to Conclusions"). All that it keeps of the texts are sums over tokens.

Shapes: N tokens, X layers with the final one last, W width of the residual stream, H width of what the head takes, and
J = H + 1 with a constant 1 in front.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eexit.method.readouts import Affine
from eexit.training.readouts.affine import ReadoutTrainer
from eexit.training.ridge import best_fit
from eexit.training.setup import Setup
from eexit.training.texts import Text


class LinearTrainer(ReadoutTrainer):
    """Fits all layers in one pass over the texts.

    The map is drawn towards the logit lens or towards the mean, and as strongly, as suits the training texts that
    choose; then it is fitted to all training texts.
    """

    def __init__(self, setup: Setup):
        super().__init__(setup)
        self.found: dict[int, Affine] = {}

    @torch.inference_mode()
    def train(self, block: Sequence[Text]) -> float | None:
        self.add_sums(block, self._pairs)
        return None

    def _pairs(self, states_NXW: Tensor) -> list[tuple[Tensor, Tensor]]:
        *inputs, target_NH = (self.decoder.normed(stream_NW) for stream_NW in states_NXW.unbind(1))
        return [(input_NH, target_NH) for input_NH in inputs]

    def finish(self) -> None:
        for layer in self.layers:
            learn, choose = self.sums.of(layer)
            towards_mean = torch.zeros_like(learn.both_JH[1:])
            towards_lens = torch.eye(*towards_mean.shape, dtype=torch.float64)
            map_JH = best_fit(learn, choose, [towards_lens, towards_mean])
            self.found[layer] = (map_JH[1:], map_JH[0])

    def of_layer(self) -> Mapping[int, Affine]:
        return self.found
