"""`kv-maps`: KV maps, trained by closed-form ridge regression.

In skipped layers, later tokens attend to keys and values made from the hidden state at the exit. A linear map of this
hidden state, fitted to full-depth keys and values or layer inputs, misleads less than the hidden state itself. Its
prior is `frozen_residual`; the validation texts choose the penalty.

Shapes: N tokens, W width of a hidden state, J = D + 1 inputs with a constant 1 in front, H targets.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from torch import Tensor

from eexit.errors import UsageError
from eexit.method.kv_maps import KEYS, STREAMS, KVMaps
from eexit.plan.artefacts import CardRow
from eexit.training.hidden_states import hidden_states
from eexit.training.kv_maps.disagreement import ExitPoints, exit_rows
from eexit.training.kv_maps.map_forms import HiddenForm, KVForm, MapForm
from eexit.training.ridge import PrincipalAxes, SplitMoments, best_fit
from eexit.training.texts import TrainingText
from eexit.training.trainer_inputs import TrainerInputs


class KVMapTrainer:
    """Trainer of KV maps from all exitable layers to their skipped layers."""

    def __init__(self, setup: TrainerInputs):
        """Raise `UsageError` if no exit has a skipped layer that needs a map."""
        self.decoder, self.layers = setup.decoder, setup.options.layers
        if self.layers[0] + 2 >= self.decoder.n_layers:
            raise UsageError(
                f"no layer is left to be mapped behind layer {self.layers[0]}: of a model with {self.decoder.n_layers} "
                f"layers, maps are for exits at layer {self.decoder.n_layers - 3} or before"
            )
        self.exits = ExitPoints(self.layers, setup.readout)
        has_projections = KVForm.fits(self.decoder, self.layers)
        self.name = KEYS if has_projections else STREAMS
        self.form: MapForm = (KVForm if has_projections else HiddenForm)(self.decoder, self.layers)
        self.maps = KVMaps(self.name, {})

    def pairs(self, texts: Sequence[TrainingText]) -> Iterable[tuple[str, Tensor, Tensor]]:
        after_layers = range(self.layers[0], self.decoder.n_layers - 1)
        states_NXW = hidden_states(self.decoder, texts, after_layers, decided_only=True)
        after = dict(zip(after_layers, states_NXW.unbind(1), strict=False))
        targets = self.form.targets(after)
        for layer in self.layers:
            yield from self.form.pairs(layer, after[layer], targets)

    def solve(self, sums: SplitMoments) -> Mapping[str, Tensor]:
        found = {}
        for name, regressions in groupby(self.form.regressions.items(), lambda of_pair: of_pair[1].sums):
            learn, choose = sums.moments_of(name)  # many regressions share their inputs
            axes = PrincipalAxes.from_moments(learn), PrincipalAxes.from_moments(learn + choose)
            for pair, regression in regressions:
                of_learn, of_choose = (each.targets(regression.targets) for each in (learn, choose))
                map_JH = best_fit(of_learn, of_choose, [regression.prior_JH[1:]], axes=axes)
                found[pair] = self.form.maps(pair, map_JH)
        self.maps = KVMaps(self.name, found)
        return self.maps.tensors()

    def table(self, texts: Sequence[TrainingText]) -> list[CardRow]:
        leaves = {"frozen_residual": None, "mapped_residual": self.maps.to_decoder_devices(self.decoder)}
        return exit_rows(self.decoder, self.exits, texts, leaves)
