"""How much of a text is no longer full depth's once exits have left a state behind, by exit set.

Exits are known: those of the oracle `agree`, so that what a student says amiss is the state's. Tokens leave at the
first layer of an exit set that says what full depth says. With the exact state, each of them would be full depth's. The
pass is scoring's (`eexit.decode.token_pass`), of many texts at once; at full depth, each text goes through the layers
once, however often its student does.

Shapes: D decided tokens of all texts, E exitable layers, X = E + 1 with the final layer last, W width of the residual
stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.rows.slots import Layers, find_layers
from eexit.decode.rows.waiting import Waiting
from eexit.decode.token_pass import StudentRows, Tokens, run_to
from eexit.method.readouts import Readout
from eexit.method.state_maps import StateMaps
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.plan.artefacts import CardRow
from eexit.training.streams import LENS, likeliest, text_pass
from eexit.training.texts import Text, blocks

BLOCK_TOKENS: Final = 1024  # of the texts that are there at a time

ExitSet = tuple[int, ...]


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
    def of(cls, decoder: Decoder, read: Exits, texts: Sequence[Text]) -> "FullDepth":
        layers = find_layers(read.layers, decoder.n_layers, ())
        passes = [text_pass(decoder, text, layers.exits.tolist()) for text in texts]
        *at_exits_XDW, final_DW = torch.cat([states_TXW[1:] for _, states_TXW in passes]).unbind(1)
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
        return cls(decoder, layers, read.readout, texts, caches, tokens, said_D, agrees_DE)

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


def exit_rows(
    decoder: Decoder, exits: Exits, texts: Sequence[Text], leaves: Mapping[str, StateMaps | None]
) -> list[CardRow]:
    """How many tokens are full depth's with each exit set, which the first of its layers names, and each state."""
    sums: dict[tuple[int, str], np.ndarray] = {}
    for block in blocks([text for text in texts if len(text.token_ids) > 1], BLOCK_TOKENS):
        full = FullDepth.of(decoder, exits, block)
        for exit_set in exit_sets(exits.layers):
            exit_D = full.exits(exit_set)
            for state, maps in leaves.items():
                wrong_D = says_otherwise(full, exit_D, state, maps)
                counts = np.array([len(exit_D), (exit_D < len(exits.layers)).sum(), (~wrong_D).sum()])
                sums[exit_set[0], state] = sums.get((exit_set[0], state), 0) + counts
    return [
        CardRow(layer=layer, series=state, n=int(n), taken=left / n, agreement=right / n)
        for (layer, state), (n, left, right) in sums.items()
    ]
