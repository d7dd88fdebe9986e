"""How much of a text is no longer full depth's once exits have left a state behind, by exit set.

Exits are known: those of the oracle `agree`, so that what a student says amiss is the state's. Tokens leave at the
first layer of an exit set that says what full depth says. With the exact state, each of them would be full depth's.
Many texts go through the layers at once, prompts at full depth.

Shapes: B texts, T tokens of the longest with its prompt, D decided tokens of all texts, E exitable layers, X = E + 1
with the final layer last, W width of the residual stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.exits.exit_pass import KnownExits
from eexit.decode.exits.student import Leaving, Student
from eexit.decode.requests import Decoding
from eexit.decode.teacher import teacher_pass
from eexit.method.readouts import Readout
from eexit.method.state_maps import StateMaps
from eexit.model.layers import Decoder, Inputs
from eexit.plan.artefacts import CardRow
from eexit.training.streams import ARGMAX_TOKENS, LENS, likeliest
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
    """Some texts at full depth: what is said of their decided tokens."""

    decoder: Decoder
    exits: Exits
    inputs: Inputs  # whole texts, up to the token before the last
    decided_BT: Tensor  # the tokens that may exit: those behind which a decided one is read
    said_D: Tensor  # the likeliest tokens after the final layer
    agrees_DE: np.ndarray  # whether an exitable layer's likeliest token is that one

    @classmethod
    def of(cls, decoder: Decoder, exits: Exits, texts: Sequence[Text]) -> "FullDepth":
        whole = [[*text.prompt_token_ids, *text.token_ids[:-1]] for text in texts]
        inputs = Inputs.of(whole, decoder.device)
        decided_BT = inputs.position_BT >= torch.tensor(
            [[len(text.prompt_token_ids)] for text in texts], device=decoder.device
        )
        kept, cache = [*exits.layers, decoder.n_layers - 1], decoder.cache(len(texts), inputs.token_BT.shape[1])
        streams_BTXW = teacher_pass(decoder, kept, inputs, cache, slice(None))
        *at_exits_XDW, final_DW = streams_BTXW[decided_BT].unbind(1)
        said_D = likeliest(decoder, final_DW)
        said_XD = [
            likeliest(decoder, hidden_DW, layer, exits.readout)
            for layer, hidden_DW in zip(exits.layers, at_exits_XDW, strict=True)
        ]
        agrees_DE = (torch.stack(said_XD, 1) == said_D[:, None]).cpu().numpy()
        return cls(decoder, exits, inputs, decided_BT, said_D, agrees_DE)

    def leaves(self, exit_set: ExitSet) -> np.ndarray:
        """Where each token leaves, an index into X: at the first layer of the set that agrees."""
        in_set_E = np.isin(self.exits.layers, exit_set)
        leaves_DX = np.append(self.agrees_DE & in_set_E, np.ones((len(self.agrees_DE), 1), bool), 1)
        exit_D: np.ndarray = leaves_DX.argmax(1)
        return exit_D


@torch.inference_mode()
def says_otherwise(full: FullDepth, exit_D: np.ndarray, state: str, maps: StateMaps | None = None) -> np.ndarray:
    """Which tokens are not full depth's, where they leave as `exit_D` says and exits leave this state behind."""
    (n_rows, n_tokens), device, layers = full.decided_BT.shape, full.decoder.device, tuple(full.exits.layers)
    exit_BT = torch.full((n_rows, n_tokens), len(layers), device=device)
    exit_BT[full.decided_BT] = torch.from_numpy(exit_D).to(device)
    student = Student(full.decoder, full.decoder.cache(n_rows, n_tokens))
    state_B = torch.zeros(n_rows, dtype=torch.long, device=device)
    leaving = Leaving(student.cache, {state: 0}, state_B, True, layers, maps)
    decoding = Decoding(layers, 1, frozenset(), readout=full.exits.readout)
    visit = KnownExits(student, leaving, decoding, exit_BT)
    visit.owes = False
    ready_DH = visit.ready(student.run(visit, full.inputs))[full.decided_BT.flatten()]
    said_D = torch.cat([full.decoder.head(some_NH).argmax(-1) for some_NH in ready_DH.split(ARGMAX_TOKENS)])
    return (said_D != full.said_D).cpu().numpy()


def exit_rows(
    decoder: Decoder, exits: Exits, texts: Sequence[Text], leaves: Mapping[str, StateMaps | None]
) -> list[CardRow]:
    """How many tokens are full depth's with each exit set, which the first of its layers names, and each state."""
    sums: dict[tuple[int, str], np.ndarray] = {}
    for block in blocks([text for text in texts if len(text.token_ids) > 1], BLOCK_TOKENS):
        full = FullDepth.of(decoder, exits, block)
        for exit_set in exit_sets(exits.layers):
            exit_D = full.leaves(exit_set)
            for state, maps in leaves.items():
                wrong_D = says_otherwise(full, exit_D, state, maps)
                counts = np.array([len(exit_D), (exit_D < len(exits.layers)).sum(), (~wrong_D).sum()])
                sums[exit_set[0], state] = sums.get((exit_set[0], state), 0) + counts
    return [
        CardRow(layer=layer, series=state, n=int(n), taken=left / n, agreement=right / n)
        for (layer, state), (n, left, right) in sums.items()
    ]
