"""How much of a text is no longer full depth's once exits have left a state behind, by exit set.

Exits are known: those of the oracle `agree`, so that what a student says amiss is the state's. Tokens leave at the
first layer of an exit set that says what full depth says. With the exact state, each of them would be full depth's. The
pass is scoring's (`eexit.decode.token_pass`), of many texts at once; at full depth, each text goes through the layers
once, however often its student does.

Shapes: P texts, D decided tokens of all texts, E exitable layers, X = E + 1 with the final layer last, W width of the
residual stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.rows.slots import Layers, find_layers
from eexit.decode.rows.waiting import Waiting
from eexit.decode.token_pass import StudentRows, Tokens, run_to
from eexit.method.readouts import READOUTS, Readout
from eexit.method.state_maps import KEYS, STREAMS, StateMaps
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.quality.intervals import Ends, of_difference, of_share
from eexit.training.streams import text_pass
from eexit.training.texts import Text, blocks

BLOCK_TOKENS: Final = 1024  # of the texts that are there at a time
READ_TOKENS: Final = 256  # of the head at a time
FROZEN: Final = "frozen_residual"
MAPPED: Final = "mapped_residual"
LENS: Final = READOUTS["lens"]

ExitSet = tuple[int, ...]
Leaves = Mapping[str, StateMaps | None]  # what exits leave, by name: maps, or None for `frozen_residual`


@dataclass(frozen=True)
class Exits:
    """Where tokens may leave, and what is read there."""

    layers: Sequence[int]
    readout: Readout = LENS


def exit_sets(layers: Sequence[int]) -> list[ExitSet]:
    """All exitable layers, the deeper half of them, the deeper half of these, and so on to the deepest alone."""
    sets = [tuple(layers)]
    while len(sets[-1]) > 1:
        sets.append(sets[-1][-(len(sets[-1]) // 2) :])
    return sets


@torch.inference_mode()
def likeliest(decoder: Decoder, hidden_DW: Tensor, layer: int | None = None, readout: Readout = LENS) -> Tensor:
    """The likeliest tokens, as streams after a layer are read; None: as the model reads those after its last one."""

    def read(some_DW: Tensor) -> Tensor:
        return decoder.read(some_DW) if layer is None else decoder.head(readout.before_head(decoder, some_DW, layer))

    return torch.cat([read(some_DW).argmax(-1) for some_DW in hidden_DW.split(READ_TOKENS)])


@dataclass(frozen=True)
class FullDepth:
    """Some texts at full depth: their prompts' keys and values, and what is said of their decided tokens."""

    decoder: Decoder
    layers: Layers  # where tokens may exit
    readout: Readout  # through which they do
    texts: Sequence[Text]
    caches: Sequence[KVCache]  # of a text each
    tokens: Tokens  # those that are decided next, in the order of the texts
    said_D: Tensor  # the likeliest tokens after the final layer
    agrees_DE: np.ndarray  # whether an exitable layer's likeliest token is that one

    @classmethod
    def of(
        cls, decoder: Decoder, read: Exits, texts: Sequence[Text], kept: Sequence[int] = ()
    ) -> tuple["FullDepth", Tensor]:
        """And the streams (D, …, W) after the layers that are to be `kept`."""
        layers = find_layers(read.layers, decoder.n_layers, ())
        needed = sorted({*layers.exits.tolist(), *kept})
        passes = [text_pass(decoder, text, needed) for text in texts]
        states_DXW = torch.cat([states_TXW[1:] for _, states_TXW in passes])
        *at_exits_XDW, final_DW = [states_DXW[:, needed.index(layer)] for layer in layers.exits.tolist()]
        said_D = likeliest(decoder, final_DW)
        said_XD = [
            likeliest(decoder, hidden_DW, layer, read.readout)
            for layer, hidden_DW in zip(read.layers, at_exits_XDW, strict=True)
        ]
        agrees_DE = (torch.stack(said_XD, 1) == said_D[:, None]).cpu().numpy()
        lengths = [len(text.token_ids) - 1 for text in texts]
        tokens = Tokens(
            np.repeat(np.arange(len(texts)), lengths),
            np.concatenate([np.arange(length) for length in lengths]),
            np.concatenate([text.token_ids[:-1] for text in texts]),
        )
        caches = [cache for cache, _ in passes]
        streams_DKW = states_DXW[:, [needed.index(layer) for layer in kept]]
        return cls(decoder, layers, read.readout, texts, caches, tokens, said_D, agrees_DE), streams_DKW

    def exits(self, exit_set: ExitSet) -> np.ndarray:
        """Where each token leaves, an index into X: at the first layer of the set that agrees."""
        in_set_E = np.isin(self.layers.exits[:-1], exit_set)
        leaves_DX = np.append(self.agrees_DE & in_set_E, np.ones((len(self.agrees_DE), 1), bool), 1)
        exit_D: np.ndarray = leaves_DX.argmax(1)
        return exit_D

    def student(self, state: str, maps: StateMaps | None) -> StudentRows:
        """Rows for a pass of all decided tokens, behind prompts that went through all layers."""
        start_S, n_texts = np.array([len(text.prompt_token_ids) for text in self.texts]), len(self.texts)
        n_inputs = max(len(text.token_ids) for text in self.texts)
        cache = KVCache(n_texts, int(start_S.max()) + n_inputs)
        for slot, held in enumerate(self.caches):
            cache.load(slice(slot, slot + 1), held, range(self.decoder.n_layers), int(start_S[slot]))
        waiting = Waiting(self.decoder, self.layers, start_S, np.zeros(n_texts, np.int64), n_inputs, n_kept=0)
        return StudentRows(self.decoder, self.layers.segments, cache, [state], waiting, maps=maps)


@torch.inference_mode()
def says_otherwise(full: FullDepth, exit_D: np.ndarray, state: str, maps: StateMaps | None = None) -> np.ndarray:
    """Which tokens are not full depth's, where they leave as `exit_D` says and exits leave this state behind."""
    with full.decoder.attending():
        hidden_DW = run_to(full.student(state, maps), full.tokens, exit_D)
    wrong_D = np.zeros(len(exit_D), bool)
    for rank, layer in enumerate(full.layers.exits.tolist()):
        here = torch.from_numpy(np.flatnonzero(exit_D == rank)).to(full.said_D.device)
        read_at = None if layer == full.decoder.n_layers - 1 else layer
        said = likeliest(full.decoder, hidden_DW[here], read_at, full.readout)
        wrong_D[exit_D == rank] = (said != full.said_D[here]).cpu().numpy()
    return wrong_D


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
