"""`linear`: a linear map per layer from its normalised stream to the final one's, by closed-form ridge regression.

After Yom Din et al. 2023 ("Jump to Conclusions"). All that it keeps of the texts are sums over tokens.

Shapes: N tokens, X layers with the final one last, W width of the residual stream, H width of what the head takes, and
J = H + 1 with a constant 1 in front.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eexit.decode.learned_exits import readout_of
from eexit.method.readouts import Affine
from eexit.training.readouts.affine import affine_tensors, readout_tables
from eexit.training.readouts.ridge import SplitSums, Sums, best_fit
from eexit.training.setup import Setup
from eexit.training.streams import streams
from eexit.training.texts import Text, parted
from eexit.training.trainer import Tables, Trainer


class LinearTrainer(Trainer):
    """Fits all layers in one pass over the texts.

    The map is drawn towards the logit lens or towards the mean, and as strongly, as suits the training texts that
    choose; then it is fitted to all training texts.
    """

    passes = 1

    def __init__(self, setup: Setup):
        self.settings, self.decoder, self.layers = setup.settings, setup.decoder, setup.settings.layers
        self.sums = SplitSums()
        self.of_layer: dict[int, Affine] = {}

    def train(self, block: Sequence[Text]) -> float | None:
        with torch.inference_mode():
            for chooses, texts in parted(block):
                states_NXW = streams(self.decoder, texts, self.layers)
                target_NH = self.decoder.normed(states_NXW[:, -1])
                for rank, layer in enumerate(self.layers):
                    input_NH = self.decoder.normed(states_NXW[:, rank])
                    self.sums.add(layer, chooses, Sums.of(input_NH, target_NH))
        return None

    def state(self) -> dict[str, Tensor]:
        return self.sums.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.sums = SplitSums.from_state(state)

    def finish(self) -> None:
        for layer in self.layers:
            learn, choose = self.sums.of(layer)
            towards_mean = torch.zeros_like(learn.both_JH[1:])
            towards_lens = torch.eye(*towards_mean.shape, dtype=torch.float64)
            map_JH = best_fit(learn, choose, [towards_lens, towards_mean])
            self.of_layer[layer] = (map_JH[1:], map_JH[0])

    def weights(self) -> dict[str, Tensor]:
        return affine_tensors(self.of_layer)

    def tables(self, texts: Sequence[Text]) -> Tables:
        readout = readout_of("linear", self.of_layer, self.decoder)
        return readout_tables("linear", readout, self.decoder, self.layers, texts)
