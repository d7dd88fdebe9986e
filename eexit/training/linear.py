"""`linear`: a readout that maps a layer's normalised hidden state linearly to the final layer's.

The maps are closed-form ridge regressions, after Yom Din et al. 2023 ("Jump to Conclusions"). The validation texts
choose each map's penalty and prior, which is the logit lens or the mean. Each map is then fitted to all training texts.

Shapes: J = F + 1 inputs, H targets.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from eexit.method.linear_map import LinearMap
from eexit.method.readouts import READOUTS, LinearReadout
from eexit.plan.artefacts import CardRow
from eexit.training.hidden_states import decided_hidden_states, hidden_states, top_tokens
from eexit.training.ridge import SplitMoments, best_fit, linear_map
from eexit.training.texts import TrainingText
from eexit.training.trainer_inputs import TrainerInputs


class LinearTrainer:
    """Trainer of a linear readout: one linear map per exitable layer, all in one pass over the texts."""

    def __init__(self, setup: TrainerInputs):
        self.decoder, self.layers = setup.decoder, setup.options.layers
        self.maps: dict[int, LinearMap] = {}

    def pairs(self, texts: Sequence[TrainingText]) -> Iterable[tuple[str, Tensor, Tensor]]:
        hidden_NXD = hidden_states(self.decoder, texts, self.layers)
        *inputs, target_NF = (self.decoder.head_input(hidden_ND) for hidden_ND in hidden_NXD.unbind(1))
        for layer, input_NF in zip(self.layers, inputs, strict=True):
            yield str(layer), input_NF, target_NF

    def solve(self, sums: SplitMoments) -> Mapping[str, Tensor]:
        for layer in self.layers:
            learn, choose = sums.moments_of(str(layer))
            towards_mean = torch.zeros_like(learn.both_JH[1:])
            towards_lens = torch.eye(*towards_mean.shape, dtype=torch.float64)
            self.maps[layer] = linear_map(best_fit(learn, choose, [towards_lens, towards_mean]))
        return LinearReadout(self.maps).tensors()

    def table(self, texts: Sequence[TrainingText]) -> list[CardRow]:
        """Return how often each layer's likeliest token is the final layer's, by the logit lens and by the maps."""
        readouts = {"lens": READOUTS["lens"], "linear": LinearReadout(self.maps).to(self.decoder.device)}
        n, n_agreeing = 0, dict.fromkeys(((name, layer) for name in readouts for layer in self.layers), 0)
        for hidden_NXD in decided_hidden_states(self.decoder, texts, self.layers):
            said_N = top_tokens(self.decoder, hidden_NXD[:, -1])
            n += len(said_N)
            for name, readout in readouts.items():
                for rank, layer in enumerate(self.layers):
                    said_early_N = top_tokens(self.decoder, hidden_NXD[:, rank], layer, readout)
                    n_agreeing[name, layer] += int((said_early_N == said_N).sum())
        shares = {key: count / n for key, count in n_agreeing.items()}
        return [CardRow(layer=layer, series=name, n=n, agreement=share) for (name, layer), share in shares.items()]
