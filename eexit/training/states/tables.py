"""The tables of state maps: what each map explains, what exits cost with each state, and what they save."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from eexit.decode.prices import find_prices
from eexit.decode.rows.requests import Decoding
from eexit.method.state_maps import LinearMap, StateMaps
from eexit.model.decoder import Decoder
from eexit.training.ridge import SplitSums
from eexit.training.states.disagreement import Exits, exit_sets, measure
from eexit.training.states.fitting import explained
from eexit.training.states.forms import Form, Pair
from eexit.training.streams import Row
from eexit.training.texts import Text

FP32_BYTES: Final = 4


@dataclass(frozen=True, eq=False)
class FittedMaps:
    """Maps that a training has made on its way: of a form, after a round, and whole or of a rank."""

    form: str
    of_round: int
    rank: int | None
    found: Mapping[Pair, Tensor]  # (J, H), float64
    maps: StateMaps

    @property
    def named(self) -> Row:
        return {"form": self.form, "round": self.of_round, "rank": self.rank}


def exit_rows(decoder: Decoder, exits: Exits, texts: Sequence[Text], variants: Sequence[FittedMaps]) -> list[Row]:
    """A row per exit set and state: `frozen_residual`, and then the maps."""
    names: dict[str, Row] = {"frozen": {"form": None, "round": None, "rank": None}}
    leaves: dict[str, StateMaps | None] = {"frozen": None}
    for index, variant in enumerate(variants):
        names[str(index)], leaves[str(index)] = variant.named, variant.maps
    return [
        {
            "exits": list(exit_set),
            "mode": "frozen_residual" if leaves[name] is None else "mapped_residual",
            **names[name],
            "n": int(found.n_P.sum()),
            "n_prompts": len(found.n_P),
            "skipped": float(found.skipped_P.sum() / found.n_P.sum() / decoder.n_layers),
            "disagreement": found.share,
            "disagreement_low": found.ends[0],
            "disagreement_high": found.ends[1],
            "n_final": int(found.n_final_P.sum()),
            "final_disagreement": found.share_of_final,
        }
        for (exit_set, name), found in measure(decoder, exits, texts, leaves, exit_sets(exits.layers)).items()
    ]


def cost_rows(decoder: Decoder, layers: Sequence[int], variants: Sequence[FittedMaps]) -> list[Row]:
    """A row per exit layer and kind of maps: what a token that leaves there costs if a later one needs all layers.

    Multiply-adds of the layers behind the exit: run at full depth, without their attention to earlier positions; their
    keys and values alone, as `frozen_residual` has them; and the same by the maps, with the bytes of these in fp32.
    """
    rows: list[Row] = []
    for variant in variants:
        maps = variant.maps
        prices = find_prices(decoder, Decoding(tuple(layers), 1, eos_token_ids=frozenset(), state_maps=maps))
        assert prices.mapped_LL is not None
        rows += [
            {
                "layer": layer,
                **variant.named,
                "skipped": decoder.n_layers - 1 - layer,
                "full_depth": int(prices.layer_L[layer + 1 :].sum()),
                "frozen_residual": int(prices.keys_L[layer + 1 :].sum()),
                "mapped_residual": int(prices.mapped_LL[layer, layer + 1 :].sum()),
                "bytes": sum(
                    _bytes(of_pair) for (exit_layer, _), of_pair in maps.of_layers.items() if exit_layer == layer
                ),
            }
            for layer in layers
        ]
    return rows


def _bytes(maps: Sequence[LinearMap]) -> int:
    return sum(part.numel() * FP32_BYTES for each in maps for part in (*each.weights, each.bias))


def pair_rows(forms: Mapping[str, Form], sums: SplitSums, variants: Sequence[FittedMaps]) -> list[Row]:
    """A row per exit layer, deeper layer and kind of maps: which share of its targets' variance a map explains.

    Targets are the stream that enters the layer, or its keys and values. What `frozen_residual` has there, the stream
    at the exit as it is, explains `frozen` of it. `sums` are those of held-out texts.
    """
    return [
        {
            "layer": pair[0],
            "deeper": pair[1],
            **variant.named,
            "explained": explained(held_out, map_JH),
            "frozen": explained(held_out, regression.prior_JH),
        }
        for variant in variants
        for pair, map_JH in variant.found.items()
        for regression in [forms[variant.form].regressions[pair]]
        for held_out in [sums.part(regression.sums, chooses=False).targets(regression.targets)]
    ]
