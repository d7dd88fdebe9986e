"""How often early-exit passes disagree with full depth, by exit set and mode.

The exits are known: those of the oracle `agree`. A token exits at the first layer of an exit set whose likeliest token
is the final layer's. With a full-depth KV cache each token would then be full depth's, so all disagreement is due to
the mode. Many texts go through the layers in one batch. The full-depth pass runs once per batch, and all early-exit
passes reuse its KV cache of the prompts.

Shapes: B texts, T tokens of the longest answer but its last, D decided tokens of all texts, E exitable layers,
X = E + 1 with the final layer last, W width of a hidden mode.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eexit.decode.exit_visitor import ExitVisitor
from eexit.decode.full_depth import full_depth_pass
from eexit.decode.groups import ExitPlan
from eexit.decode.predictors import LMHead
from eexit.decode.requests import DecodingConfig
from eexit.method.kv_maps import KVMaps
from eexit.method.modes import MODES
from eexit.method.readouts import Readout
from eexit.model.cache import BLOCK_COLUMNS, KVCache
from eexit.model.layers import Decoder, ForwardInputs
from eexit.plan.artefacts import CardRow
from eexit.training.hidden_states import ARGMAX_TOKENS, LENS, top_tokens
from eexit.training.texts import TrainingText

ROOM_COLUMNS: Final = 4096  # of a batch's KV cache

ExitSet = tuple[int, ...]


@dataclass(frozen=True)
class ExitPoints:
    """Exitable layers and their readout."""

    layers: Sequence[int]
    readout: Readout = LENS


def exit_sets(layers: Sequence[int]) -> list[ExitSet]:
    """Return all exitable layers, their deeper half, the deeper half of that, and so on to the deepest layer alone."""
    sets = [tuple(layers)]
    while len(sets[-1]) > 1:
        sets.append(sets[-1][-(len(sets[-1]) // 2) :])
    return sets


@dataclass(frozen=True)
class FullDepthTexts:
    """Batch of texts at full depth, with the top token at each decided token's position."""

    decoder: Decoder
    exits: ExitPoints
    cache: KVCache  # of whole texts but their last tokens; early-exit passes overwrite the last T columns
    inputs: ForwardInputs  # the last T tokens of these
    decided_BT: Tensor  # True where a token may exit: its successor is a decided token
    top_token_D: Tensor  # the likeliest tokens after the final layer
    agrees_DE: np.ndarray  # True where an exitable layer's likeliest token is the final layer's

    @classmethod
    def from_texts(cls, decoder: Decoder, exits: ExitPoints, texts: Sequence[TrainingText]) -> "FullDepthTexts":
        ids = [[*text.prompt_token_ids, *text.token_ids[:-1]] for text in texts]
        whole = ForwardInputs.from_texts(ids, decoder.device)
        n_prompt_B1 = torch.tensor([[len(text.prompt_token_ids)] for text in texts], device=decoder.device)
        last = slice(-max(len(text.token_ids) - 1 for text in texts), None)
        inputs = ForwardInputs(whole.token_BT[:, last], whole.position_BT[:, last], whole.attention_mask_BC)
        decided_BT = inputs.position_BT >= n_prompt_B1
        kept, cache = [*exits.layers, decoder.n_layers - 1], decoder.cache(*whole.token_BT.shape)
        hidden_BTXW = full_depth_pass(decoder, kept, whole, cache, last)
        *at_exits_XDW, final_DW = hidden_BTXW[decided_BT].unbind(1)
        top_token_D = top_tokens(decoder, final_DW)
        top_token_XD = [
            top_tokens(decoder, hidden_DW, layer, exits.readout)
            for layer, hidden_DW in zip(exits.layers, at_exits_XDW, strict=True)
        ]
        agrees_DE = (torch.stack(top_token_XD, 1) == top_token_D[:, None]).cpu().numpy()
        return cls(decoder, exits, cache, inputs, decided_BT, top_token_D, agrees_DE)

    def agreeing_exits(self, exit_set: ExitSet) -> np.ndarray:
        """Return each token's exit, (D,), as an index into X: the set's first layer that agrees with the final one.

        Without such a layer, it is the final one.
        """
        in_set_E = np.isin(self.exits.layers, exit_set)
        exits_DX = np.append(self.agrees_DE & in_set_E, np.ones((len(self.agrees_DE), 1), bool), 1)
        exit_D: np.ndarray = exits_DX.argmax(1)
        return exit_D


@torch.inference_mode()
def disagreeing(full: FullDepthTexts, exit_D: np.ndarray, mode: str, maps: KVMaps | None = None) -> np.ndarray:
    """Return True for tokens, (D,), that differ from full depth's if they exit at `exit_D` in mode `mode`.

    `exit_D` are indices into X.
    """
    exit_BT = torch.full(full.decided_BT.shape, len(full.exits.layers), device=full.decoder.device)
    exit_BT[full.decided_BT] = torch.from_numpy(exit_D).to(full.decoder.device)
    decoding = DecodingConfig(tuple(full.exits.layers), 1, frozenset(), readout=full.exits.readout, kv_maps=maps)
    head, parameter_NE = LMHead(full.decoder, decoding), torch.zeros(exit_BT.numel(), len(full.exits.layers))
    parameter_NE = parameter_NE.to(exit_BT.device)
    layer_X, u_N = torch.tensor(head.layers).to(exit_BT.device), parameter_NE[:, 0]
    plan = ExitPlan(
        (), [(MODES[mode], None)], range(len(full.exits.layers)), layer_X, parameter_NE, u_N, u_N,
        can_all_exit=MODES[mode].modifies_kv,
    ).with_exits(exit_BT.flatten())  # fmt: skip
    visitor = ExitVisitor(head, plan, exit_BT.shape)
    final_BTF = full.decoder.run(visitor, full.inputs, full.cache)
    decided_NF = visitor.head_inputs(final_BTF)[full.decided_BT.flatten()]
    top_token_D = torch.cat([full.decoder.lm_head(some_NF).argmax(-1) for some_NF in decided_NF.split(ARGMAX_TOKENS)])
    return (top_token_D != full.top_token_D).cpu().numpy()


def side_by_side(texts: Sequence[TrainingText]) -> Iterator[list[TrainingText]]:
    """Yield the texts with decided tokens in batches, shortest first: within `ROOM_COLUMNS`, or one longer text."""
    together: list[TrainingText] = []
    for text in sorted((text for text in texts if len(text.token_ids) > 1), key=n_columns):
        if together and (len(together) + 1) * n_columns(text) > ROOM_COLUMNS:
            yield together
            together = []
        together.append(text)
    if together:
        yield together


def n_columns(text: TrainingText) -> int:
    """Return the KV cache columns, in whole blocks, of a text with its prompt and without its last token."""
    n_tokens = len(text.prompt_token_ids) + len(text.token_ids) - 1
    return -(-n_tokens // BLOCK_COLUMNS) * BLOCK_COLUMNS


def exit_rows(
    decoder: Decoder, exits: ExitPoints, texts: Sequence[TrainingText], kv_maps: Mapping[str, KVMaps | None]
) -> list[CardRow]:
    """Return the card's rows by exit set and mode: the shares of tokens that exit, and that equal full depth's tokens.

    The `layer` of a row is the first layer of its exit set. `kv_maps` maps each mode to its KV maps, or to None.
    """
    sums: dict[tuple[int, str], np.ndarray] = {}
    for block in side_by_side(texts):
        full = FullDepthTexts.from_texts(decoder, exits, block)
        for exit_set in exit_sets(exits.layers):
            exit_D = full.agreeing_exits(exit_set)
            for mode, maps in kv_maps.items():
                wrong_D = disagreeing(full, exit_D, mode, maps)
                counts = np.array([len(exit_D), (exit_D < len(exits.layers)).sum(), (~wrong_D).sum()])
                sums[exit_set[0], mode] = sums.get((exit_set[0], mode), 0) + counts
    return [
        CardRow(layer=layer, series=mode, n=int(n), taken=left / n, agreement=right / n)
        for (layer, mode), (n, left, right) in sums.items()
    ]
