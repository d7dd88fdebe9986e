"""`cut`: one linear map in the place of the layers whose removal changes least, by closed-form ridge regression.

Of all blocks of so many layers, that one is cut out whose input and output have the least angle between them (Gromov et
al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers"), on average over the tokens of the first texts that
are seen. The first and the last layer stay. What stands in its place is a linear map from its input to its output, as
in ReplaceMe (Shopkhoev et al. 2025), fitted to full depth's streams at all positions, those of prompts too, where it is
used as well. It is drawn to the input as it is; texts that nothing was fitted to choose the strength of that.

Shapes: N tokens, K sizes of cuts, L layers, T positions of a text, W width of the residual stream, J = W + 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eexit.decode.costs.counting import LOOKS, Prices
from eexit.decode.prices import find_prices
from eexit.decode.rows.requests import Decoding
from eexit.model.adapters import Cut, cut_out
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.training.ridge import SplitSums, Sums
from eexit.training.setup import Setup
from eexit.training.states.disagreement import Disagreement, likeliest
from eexit.training.states.fitting import Fits, Regression, explained
from eexit.training.states.tables import FP32_BYTES
from eexit.training.streams import Row, text_pass
from eexit.training.texts import Text, parted
from eexit.training.trainer import OwnArtefact, Tables, Trainer


class CutTrainer(Trainer):
    """Finds the block of each size that is to be cut out, and then the maps, in one pass over the texts."""

    own = ("distance_KL", "compared")

    def __init__(self, setup: Setup):
        super().__init__(setup)
        assert setup.options.n_layers
        self.sizes = setup.options.n_layers
        shape = len(self.sizes), self.decoder.n_layers
        self.distance_KL = torch.full(shape, math.nan, dtype=torch.float64)  # by the block's first layer
        self.compared = torch.zeros(1, dtype=torch.long)  # tokens that the distances are of
        self.found: dict[int, FittedCut] = {}  # by size

    @property
    def blocks(self) -> dict[int, range]:
        """The block of each size that is cut out."""
        first_K = self.distance_KL.nan_to_num(math.inf).argmin(1).tolist()
        return {size: range(first, first + size) for size, first in zip(self.sizes, first_K, strict=True)}

    @torch.inference_mode()
    def train(self, block: Sequence[Text]) -> float | None:
        if not self.compared:
            self._compare_blocks(block)
        kept = sorted({layer for layers in self.blocks.values() for layer in (layers.start - 1, layers.stop - 1)})
        for chooses, texts in parted(block):
            streams_NKW = torch.cat([text_streams(self.decoder, text, kept) for text in texts])
            self._add_sums(self.sums, chooses, dict(zip(kept, streams_NKW.unbind(1), strict=True)))
        return None

    def _compare_blocks(self, texts: Sequence[Text]) -> None:
        """Find how far each block's output is from its input, where the answers' tokens are read."""
        every = range(self.decoder.n_layers)
        streams_NLW = torch.cat([text_pass(self.decoder, text, every)[1] for text in texts]).float()
        along_NLW = F.normalize(streams_NLW, dim=-1)
        for at, size in enumerate(self.sizes):
            for first in range(1, self.decoder.n_layers - size):
                cosine_N = (along_NLW[:, first - 1] * along_NLW[:, first + size - 1]).sum(-1)
                self.distance_KL[at, first] = cosine_N.clamp(-1, 1).arccos().double().mean() / math.pi
        self.compared.fill_(len(streams_NLW))

    def finish(self) -> None:
        fits, width = Fits(self.sums), self.decoder.width
        same_JW = torch.cat([torch.zeros(1, width), torch.eye(width)]).double()
        for size, layers in self.blocks.items():
            fit = fits.of(Regression(named(layers), slice(None), same_JW, (width,), change=True))
            change_JW = (fit.of_all_JH - same_JW).float()
            cut = Cut(layers, change_JW[1:], change_JW[0])
            self.found[size] = FittedCut(cut, fit.of_all_JH, fit.penalty)

    def weights(self) -> dict[str, Tensor]:
        return {}

    def parts(self, tables: Tables) -> dict[str, OwnArtefact]:
        return {
            str(size): OwnArtefact(
                found.cut.tensors(), {"cuts": [row for row in tables["cuts"] if row["n_layers"] == size]}
            )
            for size, found in self.found.items()
        }

    def tables(self, texts: Sequence[Text]) -> Tables:
        sums, said = SplitSums(), {size: TextsSaid() for size in self.sizes}
        for text in texts:
            self._compare(text, sums, said)
        return {"distances": self._distances(), "cuts": [self._row(size, sums, said[size]) for size in self.sizes]}

    @torch.inference_mode()
    def _compare(self, text: Text, sums: SplitSums, said: Mapping[int, "TextsSaid"]) -> None:
        """Add what each cut makes of a text's decided tokens, with its map and with nothing in its place."""
        decoder, final = self.decoder, self.decoder.n_layers - 1
        ends = {layer for cut in self.found.values() for layer in (cut.layers.start - 1, cut.layers.stop - 1)}
        kept = sorted({*ends, final})
        of_layer = dict(zip(kept, text_streams(decoder, text, kept).unbind(1), strict=True))
        decided = slice(len(text.prompt_token_ids), None)
        said_D = likeliest(decoder, of_layer[final][decided])
        self._add_sums(sums, False, {layer: streams_TW[decided] for layer, streams_TW in of_layer.items()})
        for size, found in self.found.items():
            nothing = Cut(found.layers, 0 * found.cut.weight_WW, 0 * found.cut.bias_W)
            entering_TW = of_layer[found.layers.start - 1]
            for cut, wrong in ((found.cut, said[size].wrong), (nothing, said[size].wrong_without)):
                student = cut_out(decoder, cut)
                final_TKW = text_streams(student, text, [final], found.layers.start, entering_TW)
                wrong.append(int((likeliest(student, final_TKW[decided, 0]) != said_D).sum()))
            said[size].n.append(len(said_D))

    def _add_sums(self, to: SplitSums, chooses: bool, of_layer: Mapping[int, Tensor]) -> None:
        """Add what the maps' regressions need of some tokens, given streams (N, W) after the layers at blocks' ends."""
        for layers in self.blocks.values():
            to.add(named(layers), chooses, Sums.of(of_layer[layers.start - 1], of_layer[layers.stop - 1]))

    def _distances(self) -> list[Row]:
        return [
            {"n_layers": size, "first": first, "distance": float(self.distance_KL[at, first])}
            for at, size in enumerate(self.sizes)
            for first in range(1, self.decoder.n_layers - size)
        ]

    def _row(self, size: int, sums: SplitSums, said: "TextsSaid") -> Row:
        found, at = self.found[size], self.sizes.index(size)
        held_out, ends = sums.part(named(found.layers), chooses=False), said.disagreement.ends
        decoding = Decoding(self.layers, 1, frozenset())
        prices = find_prices(self.decoder, decoding, cut_out(self.decoder, found.cut))
        assert prices.student
        same_JW = torch.cat([torch.zeros_like(found.map_JW[:1]), torch.eye(self.decoder.width).double()])
        return {
            "n_layers": size,
            "first": found.layers.start,
            "last": found.layers.stop - 1,
            "distance": float(self.distance_KL[at, found.layers.start]),
            "penalty": found.penalty,
            "explained": explained(held_out, found.map_JW),
            "explained_without": explained(held_out, same_JW),
            "n": sum(said.n),
            "n_prompts": len(said.n),
            "agreement": 1 - said.disagreement.share,
            "agreement_low": 1 - ends[1],
            "agreement_high": 1 - ends[0],
            "agreement_without": 1 - sum(said.wrong_without) / sum(said.n),
            "full_depth": of_a_token(prices),
            "cut": of_a_token(prices.student),
            "bytes": found.cut.n_weights * FP32_BYTES,
        }


@dataclass(frozen=True, eq=False)
class FittedCut:
    """A cut, its map (J, W) from the block's input to its output, float64, and how strongly that was drawn to it."""

    cut: Cut
    map_JW: Tensor
    penalty: float

    @property
    def layers(self) -> range:
        return self.cut.layers


@dataclass(frozen=True)
class TextsSaid:
    """Of each text, how many tokens were compared, and how many were not full depth's, with the map and without."""

    n: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    wrong_without: list[int] = field(default_factory=list)

    @property
    def disagreement(self) -> Disagreement:
        """With the map; no token leaves before the final layer."""
        n_P, wrong_P = np.array(self.n), np.array(self.wrong)
        return Disagreement(n_P, wrong_P, n_P, wrong_P, 0 * n_P)


def named(layers: range) -> str:
    return f"{layers.start}-{layers.stop - 1}"


def of_a_token(prices: Prices) -> int:
    """The multiply-adds of a token that goes through all layers and is read, its attention to positions apart."""
    return int(prices.before + prices.layer_L.sum() + prices.look_XK[-1, LOOKS.index("head_reads")])


def text_streams(
    decoder: Decoder, text: Text, kept: Sequence[int], first: int = 0, entering_TW: Tensor | None = None
) -> Tensor:
    """The streams after the `kept` layers at all positions of a text but the last, (T, K, W).

    With `entering_TW`, the streams that enter layer `first`, no layer before that is run.
    """
    ids = [*text.prompt_token_ids, *text.token_ids[:-1]]
    position_1T = torch.arange(len(ids), device=decoder.device)[None]
    view = decoder.view(KVCache(1, len(ids)), position_1T, len(ids))
    streams: dict[int, Tensor] = {}
    with decoder.attending():
        hidden_1TW, layer_pass = decoder.begin(torch.tensor([ids], device=decoder.device), view)
        hidden_1TW = hidden_1TW if entering_TW is None else entering_TW[None]
        for layer in range(first, max(kept) + 1):
            hidden_1TW = layer_pass.block(layer, hidden_1TW)
            streams[layer] = hidden_1TW[0]
    return torch.stack([streams[layer] for layer in kept], 1)
