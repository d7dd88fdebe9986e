"""A student's pass over texts whose exits are known: the oracle `agree`'s, so that what it says amiss is the state's.

Tokens leave at the first layer of an exit set that says what full depth says. With the exact state, each of them would
be full depth's. The pass is scoring's (`eexit.decode.token_pass`), of many texts at once; at full depth, each text goes
through the layers once, however often its student does.

Shapes: D decided tokens of all texts, E exitable layers, X = E + 1 with the final layer last, W width of the residual
stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.rows.slots import Layers, find_layers
from eexit.decode.rows.waiting import Waiting
from eexit.decode.token_pass import StudentRows, TokenPass, Tokens
from eexit.method.readouts import READOUTS, Readout
from eexit.method.state_maps import StateMaps
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.training.streams import text_pass
from eexit.training.texts import Text

READ_TOKENS: Final = 256  # of the head at a time
FROZEN: Final = "frozen_residual"
MAPPED: Final = "mapped_residual"
LENS: Final = READOUTS["lens"]

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

    def student(self, state: str, maps: StateMaps | None) -> TokenPass:
        """The beginning of a pass of all decided tokens, behind prompts that went through all layers."""
        start_S, n_texts = np.array([len(text.prompt_token_ids) for text in self.texts]), len(self.texts)
        n_inputs = max(len(text.token_ids) for text in self.texts)
        cache = KVCache(n_texts, int(start_S.max()) + n_inputs)
        for slot, held in enumerate(self.caches):
            cache.load(slice(slot, slot + 1), held, range(self.decoder.n_layers), int(start_S[slot]))
        waiting = Waiting(self.decoder, self.layers, start_S, np.zeros(n_texts, np.int64), n_inputs, n_kept=0)
        rows = StudentRows(self.decoder, self.layers.segments, cache, [state], waiting, maps=maps)
        return TokenPass(rows, self.tokens)


@torch.inference_mode()
def run_known(token_pass: TokenPass, exit_D: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Run a pass with these exits; after each layer of X, which tokens have been through it, and all streams (D, W).

    Of tokens that have left, the streams are those at their exits.
    """
    final = len(token_pass.student.segments) - 1
    for rank in range(int(exit_D.max()) + 1):
        going = token_pass.going
        with token_pass.student.decoder.attending():
            token_pass.run_segment(rank)
        yield going, token_pass.hidden_DW
        if rank < final:
            token_pass.leave(rank, going[exit_D[going] == rank])


@torch.inference_mode()
def says_otherwise(full: FullDepth, exit_D: np.ndarray, state: str, maps: StateMaps | None = None) -> np.ndarray:
    """Which tokens are not full depth's, where they leave as `exit_D` says and exits leave this state behind."""
    token_pass = full.student(state, maps)
    for _ in run_known(token_pass, exit_D):
        pass
    wrong_D = np.zeros(len(exit_D), bool)
    for rank, layer in enumerate(full.layers.exits.tolist()):
        here = torch.from_numpy(np.flatnonzero(exit_D == rank)).to(full.said_D.device)
        read_at = None if layer == full.decoder.n_layers - 1 else layer
        said = likeliest(full.decoder, token_pass.hidden_DW[here], read_at, full.readout)
        wrong_D[exit_D == rank] = (said != full.said_D[here]).cpu().numpy()
    return wrong_D
