"""`state`: maps that say what deeper layers would have held of a token that left, by closed-form ridge regression.

What a later token attends to in the layers that an earlier one left out is made from the stream at that one's exit. A
linear map of that stream, fitted to full depth's own streams, or to its keys and values, misleads less than the stream
as it is. The first round keeps sums over decided tokens at full depth. In a second one, the streams at the exits are
those of runs in which earlier tokens were mapped too, by the first round's maps. What is to be found stays full
depth's, and the tokens of both rounds count, as in dataset aggregation (Ross et al. 2011).

Shapes: N tokens, W width of the residual stream, J = D + 1 inputs with a constant 1 in front, H targets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eexit.decode.token_pass import TokenPass, through_segments
from eexit.errors import UsageError
from eexit.method.state_maps import KEYS, STREAMS, StateMaps
from eexit.training.ridge import SplitSums, Sums
from eexit.training.setup import Setup
from eexit.training.states.disagreement import MAPPED, Exits, FullDepth, better_form, exit_sets
from eexit.training.states.fitting import Fits
from eexit.training.states.forms import After, Form, KeysForm, Pair, StreamsForm
from eexit.training.states.tables import FittedMaps, cost_rows, exit_rows, pair_rows
from eexit.training.streams import BLOCK_TOKENS, streams
from eexit.training.texts import Text, blocks, n_tokens, parted
from eexit.training.trainer import Tables, Trainer

Found = dict[Pair, Tensor]  # maps (J, H), float64


class StateTrainer(Trainer):
    """Fits the maps of all exitable layers, in both forms until one of them is kept."""

    def __init__(self, setup: Setup):
        super().__init__(setup)
        assert setup.options.rounds
        self.exits = Exits(self.layers, setup.readout)
        self.passes = setup.options.rounds
        self.forms = forms_of(setup)
        self.choosing = [text for text in setup.texts if text.chooses]
        self.found: dict[tuple[str, int], Found] = {}  # by form and round, fitted to all training texts
        self.kept: str | None = None  # the form

    @torch.inference_mode()
    def train(self, block: Sequence[Text]) -> float | None:
        for chooses, texts in parted(block):
            if self.kept is None:
                self._add_full_depth(self.sums, chooses, texts)
            else:
                self._add_own_runs(chooses, texts)
        self.seen += n_tokens(block)
        if self.seen % self.per_pass == 0:
            self._end_round(self.seen // self.per_pass)
        return None

    def _add_full_depth(self, to: SplitSums, chooses: bool, texts: Sequence[Text]) -> None:
        after_layers = range(self.layers[0], self.decoder.n_layers - 1)
        states_NXW = streams(self.decoder, texts, after_layers, decided_only=True)
        after = dict(zip(after_layers, states_NXW.unbind(1), strict=False))
        for form in self.forms.values():
            targets = form.targets(after)
            for layer in self.layers:
                _add(to, chooses, form.sums(layer, after[layer], targets))

    def _add_own_runs(self, chooses: bool, texts: Sequence[Text]) -> None:
        """The streams of runs in which the maps so far have filled in for exits, with each exit set."""
        after_layers = range(self.layers[0], self.decoder.n_layers - 1)
        full, states_NXW = FullDepth.of(self.decoder, self.exits, texts, after_layers)
        after: After = dict(zip(after_layers, states_NXW.unbind(1), strict=True))
        [(name, form)] = [(name, form) for name, form in self.forms.items() if name == self.kept]
        maps = self._variant(name, self.seen // self.per_pass).maps
        targets = form.targets(after)
        for exit_set in exit_sets(self.layers):
            with self.decoder.attending():
                token_pass = TokenPass(full.student(MAPPED, maps), full.tokens)
                passed = through_segments(token_pass, full.exits(exit_set))
                for layer, through in zip(self.layers, passed, strict=False):
                    if layer in exit_set and len(through):
                        of_through = {deeper: target_NH[through] for deeper, target_NH in targets.items()}
                        _add(self.sums, chooses, form.sums(layer, token_pass.hidden_DW[through], of_through))

    def _end_round(self, of_round: int) -> None:
        """Fit the maps; after the first round, keep the better form alone."""
        fits, learned = Fits(self.sums), dict[str, StateMaps]()
        for name in [self.kept] if self.kept else list(self.forms):
            fitted = {pair: fits.of(regression) for pair, regression in self.forms[name].regressions.items()}
            self.found[name, of_round] = {pair: fit.of_all_JH for pair, fit in fitted.items()}
            learned[name] = self._as_maps(name, {pair: fit.of_learn_JH for pair, fit in fitted.items()})
        if self.kept is None:
            self.kept = better_form(self.decoder, self.exits, self.choosing, learned)
            self.sums = self.sums.beginning(self.kept)

    def _as_maps(self, name: str, found: Mapping[Pair, Tensor], rank: int | None = None) -> StateMaps:
        maps = {pair: self.forms[name].maps(pair, map_JH, rank) for pair, map_JH in found.items()}
        return StateMaps(name, maps).placed(self.decoder)

    def _variant(self, name: str, of_round: int, rank: int | None = None) -> FittedMaps:
        found: Found = self.found[name, of_round]
        if rank is not None:
            fits, regressions = Fits(self.sums), self.forms[name].regressions
            found = {pair: fits.of_rank(regressions[pair], map_JH, rank) for pair, map_JH in found.items()}
        return FittedMaps(name, of_round, rank, found, self._as_maps(name, found, rank))

    def _variants(self) -> list[FittedMaps]:
        """All maps that were made, those that are the artefact's last."""
        whole = [self._variant(*made) for made in sorted(self.found, key=lambda made: (made[0] == self.kept, made[1]))]
        if self.options.rank is None or self.kept is None:
            return whole
        return [*whole, self._variant(self.kept, self.passes, self.options.rank)]

    def state(self) -> dict[str, Tensor]:
        found = {
            f"found.{name}.{of_round}.{exit_layer}.{layer}": map_JH
            for (name, of_round), maps in self.found.items()
            for (exit_layer, layer), map_JH in maps.items()
        }
        kept = list(self.forms).index(self.kept) if self.kept else -1
        return super().state() | found | {"kept": torch.tensor(kept)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        kept = int(state["kept"])
        self.kept = list(self.forms)[kept] if kept >= 0 else None
        for key, map_JH in state.items():
            if key.startswith("found."):
                _, name, *numbers = key.split(".")
                of_round, exit_layer, layer = map(int, numbers)
                self.found.setdefault((name, of_round), {})[exit_layer, layer] = map_JH

    def found_options(self) -> dict[str, Any]:
        return {"form": self.kept}

    def weights(self) -> dict[str, Tensor]:
        return self._variants()[-1].maps.tensors() if self.found else {}

    def tables(self, texts: Sequence[Text]) -> Tables:
        sums, variants = SplitSums(), self._variants()
        for block in blocks(texts, BLOCK_TOKENS):
            self._add_full_depth(sums, False, block)
        return {
            "state": pair_rows(self.forms, sums, variants),
            "state_exits": exit_rows(self.decoder, self.exits, texts, variants),
            "state_costs": cost_rows(self.decoder, self.layers, variants),
        }


def _add(to: SplitSums, chooses: bool, named: Mapping[str, Sums]) -> None:
    for name, sums in named.items():
        to.add(name, chooses, sums)


def forms_of(setup: Setup) -> dict[str, Form]:
    """The forms that are fitted. Raises `UsageError` for one that the model can't have, or if there are no maps."""
    decoder, layers, asked = setup.decoder, setup.options.layers, setup.options.form
    if layers[0] + 2 >= decoder.n_layers:
        raise UsageError(
            f"no layer is left to be mapped behind layer {layers[0]}: of a model with {decoder.n_layers} layers, maps "
            f"are for exits at layer {decoder.n_layers - 3} or before"
        )
    forms: dict[str, Form] = {}
    if asked in (STREAMS, None):
        forms[STREAMS] = StreamsForm(decoder, layers)
    if asked == KEYS and not KeysForm.fits(decoder, layers):
        raise UsageError(
            f"--form {KEYS} is for models whose layers make keys and values by two matrices of their own, and this "
            f"model's don't: give --form {STREAMS}"
        )
    if asked in (KEYS, None) and KeysForm.fits(decoder, layers):
        forms[KEYS] = KeysForm(decoder, layers)
    return forms
