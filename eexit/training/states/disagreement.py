"""How much of a text is no longer full depth's once exits have left a state behind, by exit set.

Shapes: P texts, D decided tokens of all texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from eexit.method.state_maps import KEYS, STREAMS, StateMaps
from eexit.model.decoder import Decoder
from eexit.quality.intervals import Ends, of_difference, of_share
from eexit.training.states.known_exits import FROZEN, MAPPED, Exits, ExitSet, FullDepth, says_otherwise
from eexit.training.texts import Text, blocks

BLOCK_TOKENS: Final = 1024  # of the texts that are there at a time

Leaves = Mapping[str, StateMaps | None]  # what exits leave, by name: maps, or None for `frozen_residual`


@dataclass(frozen=True, eq=False)
class Disagreement:
    """What one state says amiss of texts with one exit set: sums of each text's decided tokens."""

    n_P: np.ndarray
    wrong_P: np.ndarray  # that are not full depth's
    n_final_P: np.ndarray  # that go on to the final layer
    wrong_final_P: np.ndarray
    skipped_P: np.ndarray  # layers

    @classmethod
    def of(cls, full: FullDepth, exit_D: np.ndarray, wrong_D: np.ndarray) -> "Disagreement":
        n_layers, exit_layer_D = full.decoder.n_layers, full.layers.exits[exit_D]
        final_D = exit_layer_D == n_layers - 1
        sums = np.ones_like(exit_D), wrong_D, final_D, wrong_D & final_D, n_layers - 1 - exit_layer_D
        return cls(*[np.bincount(full.tokens.slot_D, of_tokens_D, len(full.texts)) for of_tokens_D in sums])

    @classmethod
    def joined(cls, parts: Sequence["Disagreement"]) -> "Disagreement":
        return cls(*[np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)])

    @property
    def share(self) -> float:
        return float(self.wrong_P.sum() / self.n_P.sum())

    @property
    def share_of_final(self) -> float | None:
        n_final = self.n_final_P.sum()
        return float(self.wrong_final_P.sum() / n_final) if n_final else None

    @property
    def ends(self) -> Ends:
        """The interval of the share; prompts are its unit, of which those with more tokens weigh more."""
        return of_share(self.share + (self.wrong_P - self.share * self.n_P) / self.n_P.mean())


def less(one: Disagreement, other: Disagreement) -> tuple[float, Ends]:
    """How much less the share of `one` is than that of `other`, and the interval of that, paired by text."""
    more_P, mean = other.wrong_P - one.wrong_P, other.share - one.share
    return mean, of_difference(mean + (more_P - mean * one.n_P) / one.n_P.mean())


def measure(
    decoder: Decoder, exits: Exits, texts: Sequence[Text], leaves: Leaves, sets: Sequence[ExitSet]
) -> dict[tuple[ExitSet, str], Disagreement]:
    """What is said amiss with each of the exit sets and each of the states."""
    parts: dict[tuple[ExitSet, str], list[Disagreement]] = {}
    for block in blocks([text for text in texts if len(text.token_ids) > 1], BLOCK_TOKENS):
        full, _ = FullDepth.of(decoder, exits, block)
        for exit_set in sets:
            exit_D = full.exits(exit_set)
            for name, maps in leaves.items():
                wrong_D = says_otherwise(full, exit_D, MAPPED if maps else FROZEN, maps)
                parts.setdefault((exit_set, name), []).append(Disagreement.of(full, exit_D, wrong_D))
    return {key: Disagreement.joined(of_blocks) for key, of_blocks in parts.items()}


def better_form(decoder: Decoder, exits: Exits, texts: Sequence[Text], maps: Mapping[str, StateMaps]) -> str:
    """The form that says less amiss on texts that its maps were not fitted to, where tokens may leave at all layers."""
    if len(maps) == 1:
        return next(iter(maps))
    everywhere = tuple(exits.layers)
    measured = measure(decoder, exits, texts, maps, [everywhere])
    return kept_form(measured[everywhere, STREAMS], measured[everywhere, KEYS])


def kept_form(streams: Disagreement, keys: Disagreement) -> str:
    """Maps to keys and values, which take fewer multiply-adds, unless those of streams are certainly better.

    They are if the whole interval of the difference, paired by text, is on their side.
    """
    _, (low, _) = less(streams, keys)
    return STREAMS if low > 0 else KEYS
