"""The pass that lets tokens exit: each goes through the layers up to its exit, and waits there for later ones.

Layers past a token's exit are left out until a later token of its row goes deeper. Then the tokens that wait take part,
all of a row's together: at full depth in modes that do not alter the state, in other modes by what the state leaves
there (deferred computation, as in EE-LLM, Chen et al. 2023). What goes in differs by who asks:

    generation, online rule     each row's last token; exits are decided as it goes (`eexit.decode.exit_pass`)
    drafting                    each row's last token or draft, up to the draft layer
    verification                the last drafts, through all layers: the drafts that wait come along
    scoring                     all tokens of a text; exits are decided layer by layer

Oracles' students, which have a full-depth pass beside them anyway, go through spans of the layers together with those
that have exited, so that a step needs two copies to a GPU however many rows there are (`eexit.decode.steps.beside`).

Shapes: D tokens that are to exit, N tokens that run together, S slots, P indices of a row's inputs, E exitable layers,
X = E + 1 with the final layer last, W width of the residual stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.rows.transfer import to_device
from eexit.decode.rows.waiting import Waiting
from eexit.method.state_maps import StateMaps, TokensAfter
from eexit.method.states import STATES, alters
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.model.layerwise import LayerPass
from eexit.model.views import TokensView

TOKENS_PER_CALL: Final = 256  # of a layer: more would take more memory, and hardly less time per token


@dataclass(frozen=True)
class Tokens:
    """Tokens of a pass, each by itself: several may be of one row, whose keys and values are in one slot."""

    slot_D: np.ndarray
    input_index_D: np.ndarray  # among the row's generated tokens
    token_D: np.ndarray


@dataclass(frozen=True)
class StudentRows:
    """The decoder that is run up to the exits, its keys and values, and what it has left out so far.

    `segments` are its layers, cut where rows may exit. A pass adds what it runs to the `counts` of that name in
    `costs.counting.Counts`, as (S, P), unless there are none. Of tokens that go through all layers at full
    depth, it `collects` the streams after the last so many layers of X. States that map need `maps`.
    """

    decoder: Decoder
    segments: Sequence[tuple[int, int]]
    cache: KVCache
    states: Sequence[str]
    waiting: Waiting
    counts: Mapping[str, np.ndarray] = field(default_factory=dict)
    collects: int = 0
    maps: StateMaps | None = None

    @cached_property
    def unaltered(self) -> np.ndarray:
        """By a row's state, whether its tokens go through all layers in the end: those of `NONE` do, which is last."""
        return np.array([*(not alters(STATES[name]) for name in self.states), True])


@dataclass(frozen=True)
class Through:
    """Tokens that a pass has taken through the final layer, at full depth."""

    slot_N: np.ndarray
    input_index_N: np.ndarray
    streams_NXW: Tensor


@dataclass
class ExitedTokens:
    """Tokens of one state that have exited before the layers being run: what `states.Exited` asks for.

    They keep the residual stream that they exited with; how many layers' keys and values were written is counted. Where
    their state maps, `exits` say which of them exited after which layer. Beside a teacher, keys and values up to the
    fork are in its cache alone.
    """

    layer_pass: LayerPass
    hidden_BTW: Tensor
    exits: TokensAfter = ()
    maps: StateMaps | None = None
    teacher: LayerPass | None = None  # of the tokens' prefixes
    fork: int = -1
    n_written: int = 0

    def write_keys(self, layer: int) -> None:
        self.layer_pass.write_keys(layer, self.hidden_BTW)
        self.n_written += 1

    def write_mapped_keys(self, layer: int) -> None:
        assert self.maps, "a state that maps needs state maps"
        self.maps.write_keys(self.layer_pass, layer, self.hidden_BTW, self.exits)
        self.n_written += 1

    def copy_keys(self, layer: int) -> None:
        source = self.teacher if self.teacher and layer - 1 <= self.fork else self.layer_pass
        self.layer_pass.on(layer).view.copy_keys(source.on(layer - 1).view, layer - 1, layer)

    def hide(self, layer: int) -> None:
        self.layer_pass.on(layer).view.hide(layer)


class TokenPass:
    """One pass: construct; then, segment after segment, `run_segment` and `leave`."""

    def __init__(self, student: StudentRows, tokens: Tokens):
        self.student, self.tokens = student, tokens
        embedded_D1W, self.layer_pass = self._begin(tokens.slot_D, tokens.input_index_D, tokens.token_D)
        # The streams after the layers that a token has run, and before the last of them.
        self.hidden_DW = embedded_D1W[:, 0].clone()
        self.before_DW = torch.empty_like(self.hidden_DW)
        self.going_D = np.ones(len(tokens.slot_D), bool)
        self.streams_DXW = self.hidden_DW.new_empty(len(self.hidden_DW), student.collects, student.decoder.width)
        self.through: list[Through] = []

    @property
    def going(self) -> np.ndarray:
        """Which of the tokens have not exited."""
        return np.flatnonzero(self.going_D)

    @record_function("layers")
    def run_segment(self, rank: int) -> None:
        """Run these layers for the tokens that go on, and for those that wait and are needed now."""
        student, going, layers = self.student, self.going, range(*self.student.segments[rank])
        before_S = np.zeros(student.cache.n_slots, np.int64)
        np.maximum.at(before_S, self.tokens.slot_D[going], self.tokens.input_index_D[going])
        slot_N, input_index_N = student.waiting.needed(rank, before_S)
        state_N = student.waiting.state_S[slot_N]
        both = student.unaltered[state_N]
        for index in np.unique(state_N[~both]).tolist():
            for part in in_parts(np.flatnonzero(state_N == index)):
                self._fill(student.states[index], layers, slot_N[part], input_index_N[part])
        slot_B = np.concatenate([self.tokens.slot_D[going], slot_N[both]])
        input_index_B = np.concatenate([self.tokens.input_index_D[going], input_index_N[both]])
        for part in in_parts(np.lexsort((input_index_B, slot_B))):  # later tokens of a row attend to earlier ones
            behind = part[part >= len(going)]
            self._run(rank, layers, going[part[part < len(going)]], slot_B[behind], input_index_B[behind])
        student.waiting.advance(rank, slot_N, input_index_N)

    def leave(self, rank: int, exiting: np.ndarray) -> None:
        """Have these of the tokens, which have been through a segment, exit behind it, and wait from now on."""
        if not len(exiting):
            return
        student, waiting = self.student, self.student.waiting
        [out] = to_device([exiting], student.decoder.device)
        self.going_D[exiting] = False
        slot_N, input_index_N = self.tokens.slot_D[exiting], self.tokens.input_index_D[exiting]
        waiting.put(rank + 1, slot_N, input_index_N, self.tokens.token_D[exiting], self.hidden_DW[out])
        unaltered_N = np.flatnonzero(student.unaltered[waiting.state_S[slot_N]])
        if student.collects and len(unaltered_N):
            [out] = to_device([exiting[unaltered_N]], student.decoder.device)
            at = waiting.at(slot_N[unaltered_N], input_index_N[unaltered_N])
            waiting.streams_SPXW[at] = self.streams_DXW[out]

    def _begin(self, slot_N: np.ndarray, input_index_N: np.ndarray, token_N: np.ndarray) -> tuple[Tensor, LayerPass]:
        """Embed these tokens, (N, 1, W), and begin their pass."""
        decoder, position_N = self.student.decoder, self.student.waiting.start_S[slot_N] + input_index_N
        slot, position_N1, token_N1 = to_device([slot_N, position_N[:, None], token_N[:, None]], decoder.device)
        view = TokensView(self.student.cache, slot, position_N1, int(position_N.max()) + 1, decoder.attends_itself)
        return decoder.begin(token_N1, view)

    def _fill(self, state: str, layers: range, slot_N: np.ndarray, input_index_N: np.ndarray) -> None:
        """Have these layers hold what this state leaves of tokens that have exited."""
        student, waiting = self.student, self.student.waiting
        rows = padded_for(student.decoder.device, np.arange(len(slot_N)))
        slot_B, input_index_B = slot_N[rows], input_index_N[rows]
        _, layer_pass = self._begin(slot_B, input_index_B, waiting.token_SP[slot_B, input_index_B])
        hidden_B1W = waiting.hidden_SPW[waiting.at(slot_B, input_index_B)][:, None]
        exits = self._exits(slot_B, input_index_B) if STATES[state].maps else ()
        exited = ExitedTokens(layer_pass, hidden_B1W, exits, student.maps)
        for layer in layers:
            STATES[state].fill(layer, exited)
        if student.counts:
            student.counts["keys_T"][slot_N, input_index_N] += exited.n_written

    def _exits(self, slot_B: np.ndarray, input_index_B: np.ndarray) -> TokensAfter:
        """Which of these tokens, which wait, exited after which layer."""
        student, exit_B = self.student, self.student.waiting.exit_SP[slot_B, input_index_B]
        device, ranks = student.decoder.device, np.unique(exit_B).tolist()
        tokens = to_device([padded_for(device, np.flatnonzero(exit_B == rank)) for rank in ranks], device)
        return [(student.segments[rank][1] - 1, of_rank) for rank, of_rank in zip(ranks, tokens, strict=True)]

    def _run(self, rank: int, layers: range, going: np.ndarray, slot_N: np.ndarray, input_index_N: np.ndarray) -> None:
        """Run these layers for some tokens that go on, and for some that wait, in one call of each layer."""
        student, waiting, device = self.student, self.student.waiting, self.student.decoder.device
        slot_B = np.append(self.tokens.slot_D[going], slot_N)
        input_index_B = np.append(self.tokens.input_index_D[going], input_index_N)
        rows = padded_for(device, np.arange(len(slot_B)))
        going_G: Tensor | slice
        if not len(slot_N) and len(rows) == len(going) == len(self.going_D):  # nothing is to be picked out
            layer_pass, after_BTW, going_G = self.layer_pass, self.hidden_DW[:, None], slice(None)
        else:
            [going_G, row] = to_device([going, rows], device)
            if len(slot_N):
                at, token_N = waiting.at(slot_N, input_index_N), waiting.token_SP[slot_N, input_index_N]
                token_B = np.append(self.tokens.token_D[going], token_N)
                _, layer_pass = self._begin(slot_B[rows], input_index_B[rows], token_B[rows])
                after_BTW = torch.cat([self.hidden_DW[going_G], waiting.hidden_SPW[at]])[row, None]
            else:
                layer_pass = self.layer_pass.among(going_G[row], self.layer_pass.view.among(going_G[row]))
                after_BTW = self.hidden_DW[going_G[row], None]
        before_BTW = after_BTW
        for layer in layers:
            before_BTW, after_BTW = after_BTW, layer_pass.block(layer, after_BTW)
        before_BTW, after_BTW = before_BTW.to(device), after_BTW.to(device)
        self.before_DW[going_G], self.hidden_DW[going_G] = before_BTW[: len(going), 0], after_BTW[: len(going), 0]
        if len(slot_N):
            waiting.hidden_SPW[at] = after_BTW[len(going) : len(slot_B), 0]
        if student.counts:
            student.counts["layers_T"][slot_B, input_index_B] += len(layers)
        if rank >= len(student.segments) - student.collects:
            self._collect(rank, going, slot_N, input_index_N)

    def _collect(self, rank: int, going: np.ndarray, slot_N: np.ndarray, input_index_N: np.ndarray) -> None:
        """Keep the streams of tokens that have just been through a segment."""
        waiting, at_rank = self.student.waiting, rank - len(self.student.segments)  # counted from the end of X
        going = going[self.student.unaltered[waiting.state_S[self.tokens.slot_D[going]]]]
        [going_G] = to_device([going], self.student.decoder.device)
        self.streams_DXW[going_G, at_rank] = self.hidden_DW[going_G]
        streams = [self.streams_DXW[going_G]]
        if len(slot_N):
            at = waiting.at(slot_N, input_index_N)
            waiting.streams_SPXW[:, :, at_rank][at] = waiting.hidden_SPW[at]
            streams.append(waiting.streams_SPXW[at])
        if at_rank == -1:
            slots = np.append(self.tokens.slot_D[going], slot_N)
            self.through.append(
                Through(slots, np.append(self.tokens.input_index_D[going], input_index_N), torch.cat(streams))
            )


def run_to(student: StudentRows, tokens: Tokens, exit_D: np.ndarray) -> Tensor:
    """Run tokens up to exits that are known, as indices into X; returns their residual streams there, (D, W)."""
    token_pass = TokenPass(student, tokens)
    for _ in through_segments(token_pass, exit_D):
        pass
    return token_pass.hidden_DW


def through_segments(token_pass: TokenPass, exit_D: np.ndarray) -> Iterator[np.ndarray]:
    """Run a pass segment after segment, with exits that are known; which tokens have just been through each.

    Of tokens that have left, the pass has the streams at their exits.
    """
    final = len(token_pass.student.segments) - 1
    for rank in range(int(exit_D.max()) + 1):
        going = token_pass.going
        token_pass.run_segment(rank)
        yield going
        if rank < final:
            token_pass.leave(rank, going[exit_D[going] == rank])


def in_parts(rows: np.ndarray) -> list[np.ndarray]:
    """These rows, in parts of so many that one call of a layer may take."""
    return [rows[start : start + TOKENS_PER_CALL] for start in range(0, len(rows), TOKENS_PER_CALL)]


def padded_for(device: torch.device, rows: np.ndarray) -> np.ndarray:
    """Repeat the last of these rows on a CPU, where every new number of them costs time and memory.

    `prefixes.MAX_BATCH_SIZES` says why; few numbers are used.
    """
    size = rounded(len(rows)) if device.type == "cpu" else len(rows)
    return np.pad(rows, (0, size - len(rows)), mode="edge")


def rounded(n_rows: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, …: two sizes per power of two."""
    power = 1 << max(0, n_rows - 1).bit_length()
    return power * 3 // 4 if power > 2 and n_rows <= power * 3 // 4 else power
