"""A pass of tokens through the layers, in which each token leaves where its rule says.

Everything at a layer depends only on decisions at the layers below it. So one pass serves generation, with one new
token per row, and scoring, with all tokens of a text at once (`eexit.decode.scoring`). Layers past a token's exit are
left out until a later token of its row goes deeper. Then the tokens that wait take part, all of a row's together: at
full depth in modes that do not alter the state, in other modes by what the state leaves there (deferred computation, as
in EE-LLM, Chen et al. 2023).

Shapes: D tokens being decided, N tokens that run together, S slots, P indices of a row's inputs, E exitable layers,
X = E + 1 with the final layer last, W width of the residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.layer_reading import LayerReading, Picked, read_layer, read_tokens
from eexit.decode.left_behind import ExitedTokens
from eexit.decode.rows.requests import Decoding
from eexit.decode.rows.slots import NONE, Layers
from eexit.decode.rows.transfer import to_device
from eexit.decode.waiting import Waiting
from eexit.method.rules import BLIND, ONLINE, Chances, Look, Online
from eexit.method.shortlist import ShortReading
from eexit.method.states import STATES, alters
from eexit.method.stick_breaking import choose_exits, exit_probabilities
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.model.layerwise import LayerPass
from eexit.model.views import TokensView

TOKENS_PER_CALL: Final = 256  # of a layer: more would take more memory, and hardly less time per token


@dataclass(frozen=True)
class Tokens:
    """Tokens to be decided, each by itself: several may be of one row, whose keys and values are in one slot."""

    slot_D: np.ndarray
    input_index_D: np.ndarray  # among the row's generated tokens
    token_D: np.ndarray


@dataclass(frozen=True)
class Ran:
    """What was run for each token of the rows so far: a pass adds to it."""

    layers_SP: np.ndarray
    keys_SP: np.ndarray  # layers whose keys and values alone were written


@dataclass(frozen=True)
class Through:
    """Tokens that a pass has taken through the final layer, at full depth."""

    slot_N: np.ndarray
    input_index_N: np.ndarray
    streams_NXW: Tensor


@dataclass(frozen=True)
class Deciding:
    """The tokens that are being decided, as far as their exits depend on anything but the pass itself."""

    rule_D: np.ndarray  # an index into the rules; NONE for `normal`
    setting_DE: Tensor  # of the rule
    u_exit_D: Tensor
    u_token_D: Tensor
    given_D: Tensor | None = None  # their next tokens, if they are not to be found


@dataclass(frozen=True)
class Known:
    """Exits that are known before the pass: indices into X, NONE where the rule looks at the pass to decide."""

    exit_D: np.ndarray
    prob_DX: Tensor
    evidence_DE: Tensor


@dataclass(frozen=True)
class ExitsTaken:
    """Where the decided tokens exited and what came of it."""

    exit_D: np.ndarray  # indices into X
    prob_DX: Tensor  # the distribution they were drawn from; NaN for layers that were not looked at and had a chance
    evidence_DE: Tensor
    hidden_DW: Tensor  # the residual streams at the exits
    picked: Picked
    reads_DX: np.ndarray
    short_reads_DX: np.ndarray
    probed_DX: np.ndarray


def known_exits(rules: Sequence[str], deciding: Deciding) -> Known:
    """What is known of `normal`, which never exits, and of rules that look at nothing."""
    stop_DE = torch.zeros_like(deciding.setting_DE)
    go_on_DE = stop_DE + 1
    for index, name in enumerate(rules):
        of_rule_D = deciding.rule_D == index
        if name in BLIND and of_rule_D.any():
            [of_rule_D1] = to_device([of_rule_D[:, None]], stop_DE.device)
            chances = BLIND[name].chances(None, deciding.setting_DE)
            stop_DE = torch.where(of_rule_D1, chances.stop_BE, stop_DE)
            go_on_DE = torch.where(of_rule_D1, chances.go_on_BE, go_on_DE)
    chances = Chances(stop_DE, go_on_DE)
    exit_D = choose_exits(chances, deciding.u_exit_D).cpu().numpy()
    looks_D = np.isin(deciding.rule_D, [index for index, name in enumerate(rules) if name in ONLINE])
    exit_D[looks_D] = NONE
    return Known(exit_D, exit_probabilities(chances), torch.full_like(stop_DE, torch.nan))


class ExitPass:
    """One pass: construct, then `run`."""

    def __init__(
        self, decoder: Decoder, decoding: Decoding, layers: Layers, cache: KVCache, rules: Sequence[str],
        states: Sequence[str], tokens: Tokens, deciding: Deciding, known: Known, waiting: Waiting, ran: Ran,
        collects: bool = False,
    ):  # fmt: skip
        """Tokens that exit go to `waiting`, from which those that are needed come.

        With `collects`, the streams of tokens that are through the final layer, and whose state is that of full depth,
        are in `through` in the end.
        """
        self.decoder, self.decoding, self.layers, self.cache = decoder, decoding, layers, cache
        self.rules, self.states, self.tokens, self.deciding, self.known = rules, states, tokens, deciding, known
        self.waiting, self.ran, self.collects, device = waiting, ran, collects, decoder.device
        self.n_deciding = len(known.exit_D)
        self.through: list[Through] = []
        embedded_D1W, self.layer_pass = self._begin(tokens.slot_D, tokens.input_index_D, tokens.token_D)
        # The streams after the layers that a token has run, and before the last of them.
        self.hidden_DW, self.before_DW = embedded_D1W[:, 0].clone(), torch.empty_like(embedded_D1W[:, 0])
        self.streams_DXW = self.hidden_DW.new_empty(self.n_deciding, len(layers.exits), decoder.width)
        self.going_D = np.ones(self.n_deciding, bool)
        self.unaltered = [NONE, *(index for index, name in enumerate(states) if not alters(STATES[name]))]
        self.exit_D = np.full(self.n_deciding, len(layers.exits) - 1)
        self.prob_DX, self.evidence_DE = known.prob_DX, known.evidence_DE
        self.passed_D = torch.ones_like(deciding.u_exit_D)  # the chance of having passed all layers so far
        self.likeliest_DE = torch.zeros_like(deciding.setting_DE, dtype=torch.long)
        self.picked = Picked.room_for(self.n_deciding, decoding.record_top_k, device)
        self.unread_D = np.ones(self.n_deciding, bool)
        self.reads_DX, self.short_reads_DX, self.probed_DX = np.zeros((3, self.n_deciding, len(layers.exits)), np.int64)
        if decoding.shortlist:
            self.shortlist_DK = self.likeliest_DE.new_zeros(self.n_deciding, decoding.shortlist.n_tokens)

    def run(self) -> ExitsTaken:
        with self.decoder.attending():
            for rank, (start, end) in enumerate(self.layers.segments):
                going = np.flatnonzero(self.going_D)
                if not len(going):
                    break
                with record_function("layers"):
                    self._run_layers(rank, start, end, going)
                if rank < len(self.decoding.exitable_layers):
                    with record_function("deciding"):
                        self._decide(rank, going)
            self._take_unread()
        prob_DX = self._finish_probabilities()
        return ExitsTaken(
            self.exit_D, prob_DX, self.evidence_DE, self.hidden_DW, self.picked, self.reads_DX,
            self.short_reads_DX, self.probed_DX,
        )  # fmt: skip

    def _begin(self, slot_N: np.ndarray, input_index_N: np.ndarray, token_N: np.ndarray) -> tuple[Tensor, LayerPass]:
        """Embed these tokens, (N, 1, W), and begin their pass."""
        position_N = self.waiting.start_S[slot_N] + input_index_N
        slot, position_N1, token_N1 = to_device([slot_N, position_N[:, None], token_N[:, None]], self.decoder.device)
        view = TokensView(self.cache, slot, position_N1, int(position_N.max()) + 1, self.decoder.attends_itself)
        return self.decoder.begin(token_N1, view)

    def _run_layers(self, rank: int, start: int, end: int, going: np.ndarray) -> None:
        """Run these layers for the tokens that go on, and for those that wait and are needed now."""
        before_S = np.zeros(self.cache.n_slots, np.int64)
        np.maximum.at(before_S, self.tokens.slot_D[going], self.tokens.input_index_D[going])
        slot_N, input_index_N = self.waiting.needed(rank, before_S)
        state_N = self.waiting.state_S[slot_N]
        for index in np.setdiff1d(state_N, self.unaltered).tolist():
            for part in in_parts(np.flatnonzero(state_N == index)):
                self._fill(self.states[index], range(start, end), slot_N[part], input_index_N[part])
        both = np.isin(state_N, self.unaltered)
        slot_B = np.concatenate([self.tokens.slot_D[going], slot_N[both]])
        input_index_B = np.concatenate([self.tokens.input_index_D[going], input_index_N[both]])
        for part in in_parts(np.lexsort((input_index_B, slot_B))):  # later tokens of a row attend to earlier ones
            behind = part[part >= len(going)]
            self._run(rank, range(start, end), going[part[part < len(going)]], slot_B[behind], input_index_B[behind])
        self.waiting.advance(rank, slot_N, input_index_N)

    def _fill(self, state: str, layers: range, slot_N: np.ndarray, input_index_N: np.ndarray) -> None:
        """Have these layers hold what this state leaves of tokens that have exited."""
        rows = padded_for(self.decoder.device, np.arange(len(slot_N)))
        token_N = self.waiting.token_SP[slot_N, input_index_N]
        _, layer_pass = self._begin(slot_N[rows], input_index_N[rows], token_N[rows])
        exited = ExitedTokens(
            layer_pass, self.waiting.hidden_SPW[self.waiting.at(slot_N[rows], input_index_N[rows])][:, None]
        )
        for layer in layers:
            STATES[state].fill(layer, exited)
        self.ran.keys_SP[slot_N, input_index_N] += exited.n_written

    def _run(self, rank: int, layers: range, going: np.ndarray, slot_N: np.ndarray, input_index_N: np.ndarray) -> None:
        """Run these layers for some tokens that go on, and for some that wait, in one call of each layer."""
        slot_B = np.append(self.tokens.slot_D[going], slot_N)
        input_index_B = np.append(self.tokens.input_index_D[going], input_index_N)
        rows = padded_for(self.decoder.device, np.arange(len(slot_B)))
        [going_G, row] = to_device([going, rows], self.decoder.device)
        if len(slot_N):
            at, token_N = self.waiting.at(slot_N, input_index_N), self.waiting.token_SP[slot_N, input_index_N]
            token_B = np.append(self.tokens.token_D[going], token_N)
            _, layer_pass = self._begin(slot_B[rows], input_index_B[rows], token_B[rows])
            after_BTW = torch.cat([self.hidden_DW[going_G], self.waiting.hidden_SPW[at]])[row, None]
        else:
            layer_pass = self.layer_pass.among(going_G[row], self.layer_pass.view.among(going_G[row]))
            after_BTW = self.hidden_DW[going_G[row], None]
        before_BTW = after_BTW
        for layer in layers:
            before_BTW, after_BTW = after_BTW, layer_pass.block(layer, after_BTW)
        self.before_DW[going_G], self.hidden_DW[going_G] = before_BTW[: len(going), 0], after_BTW[: len(going), 0]
        if len(slot_N):
            self.waiting.hidden_SPW[at] = after_BTW[len(going) : len(slot_B), 0]
        self.ran.layers_SP[slot_B, input_index_B] += len(layers)
        if self.collects:
            self._collect(rank, going, slot_N, input_index_N)

    def _collect(self, rank: int, going: np.ndarray, slot_N: np.ndarray, input_index_N: np.ndarray) -> None:
        """Keep the streams of tokens that have just been through a segment."""
        going = going[np.isin(self.waiting.state_S[self.tokens.slot_D[going]], self.unaltered)]
        [going_G] = to_device([going], self.decoder.device)
        self.streams_DXW[going_G, rank] = self.hidden_DW[going_G]
        streams = [self.streams_DXW[going_G]]
        if len(slot_N):
            at = self.waiting.at(slot_N, input_index_N)
            self.waiting.streams_SPXW[:, :, rank][at] = self.waiting.hidden_SPW[at]
            streams.append(self.waiting.streams_SPXW[at])
        if rank == len(self.layers.exits) - 1:
            slots = np.append(self.tokens.slot_D[going], slot_N)
            self.through.append(
                Through(slots, np.append(self.tokens.input_index_D[going], input_index_N), torch.cat(streams))
            )

    def _decide(self, rank: int, going: np.ndarray) -> None:
        """Let the rules of the tokens that have come this far say which of them exit here, and from now on wait."""
        exits = self.known.exit_D[going] == rank
        looking = np.flatnonzero(self.known.exit_D[going] == NONE)
        if len(looking):
            exits[looking] = self._look(rank, going[looking])
        exiting = going[exits]
        if not len(exiting):
            return
        [out] = to_device([exiting], self.decoder.device)
        self.exit_D[exiting] = rank
        self.going_D[exiting] = False
        slot_N, input_index_N = self.tokens.slot_D[exiting], self.tokens.input_index_D[exiting]
        self.waiting.put(rank + 1, slot_N, input_index_N, self.tokens.token_D[exiting], self.hidden_DW[out])
        unaltered_N = np.flatnonzero(np.isin(self.waiting.state_S[slot_N], self.unaltered))
        if self.collects and len(unaltered_N):
            [out] = to_device([exiting[unaltered_N]], self.decoder.device)
            at = self.waiting.at(slot_N[unaltered_N], input_index_N[unaltered_N])
            self.waiting.streams_SPXW[at] = self.streams_DXW[out]

    def _look(self, rank: int, looking: np.ndarray) -> np.ndarray:
        """Which of these tokens exit, by rules that look."""
        rule_B, device = self.deciding.rule_D[looking], self.decoder.device
        online = {index: ONLINE[name] for index, name in enumerate(self.rules) if name in ONLINE}
        reads_B = np.isin(rule_B, [index for index, rule in online.items() if rule.reads])
        probes_B = np.isin(rule_B, [index for index, rule in online.items() if rule.probes])
        self.probed_DX[looking[probes_B], rank] += 1
        [row_B] = to_device([looking], device)
        read = self._read(rank, looking[reads_B]) if reads_B.any() else None
        index_read_B = np.cumsum(reads_B) - 1  # among the rows that were read
        exits_B = torch.zeros(len(looking), dtype=torch.bool, device=device)
        for index in np.unique(rule_B).tolist():
            rule = online[index]
            [of_rule, index_read] = to_device([np.flatnonzero(rule_B == index), index_read_B[rule_B == index]], device)
            row = row_B[of_rule]
            look = Look(
                self.decoding.exitable_layers[rank],
                self.before_DW[row],
                self.hidden_DW[row],
                read.distribution(index_read) if read and rule.reads else None,
                self.likeliest_DE[row, : rank + 1] if rule.reads else None,
                self.deciding.setting_DE[row, rank],
                self.decoding.probe,
            )
            exits_B[of_rule] = self._draw(rank, row, rule, look)
        exits = exits_B.cpu().numpy()
        taken = np.flatnonzero(exits & reads_B)
        if len(taken) and isinstance(read, LayerReading):
            [row, index_read] = to_device([looking[taken], index_read_B[taken]], device)
            self.picked.put(row, read.taken(index_read, self.decoding, self.deciding.u_token_D[row]))
            self.unread_D[looking[taken]] = False
        return exits

    def _read(self, rank: int, reading: np.ndarray) -> LayerReading | ShortReading:
        """Read these tokens to decide: with the whole head or, where there is one by now, for their shortlists."""
        shortlist, layer = self.decoding.shortlist, self.decoding.exitable_layers[rank]
        [row] = to_device([reading], self.decoder.device)
        hidden_BW = self.hidden_DW[row]
        read: LayerReading | ShortReading
        if shortlist and rank > 0:
            read = shortlist.read(self.decoder, self.decoding.readout, hidden_BW, layer, self.shortlist_DK[row])
            self.short_reads_DX[reading, rank] += 1
        else:
            given = self.deciding.given_D
            read = read_layer(self.decoder, hidden_BW, rank, self.decoding, None if given is None else given[row])
            self.reads_DX[reading, rank] += 1
            if shortlist:
                self.shortlist_DK[row] = read.shortlist(shortlist.n_tokens)
        self.likeliest_DE[row, rank] = read.likeliest_B
        return read

    def _draw(self, rank: int, row: Tensor, rule: Online, look: Look) -> Tensor:
        """Stick-breaking, one layer at a time: the first layer whose cumulative probability exceeds the draw."""
        evidence_B = rule.evidence(look)
        chances = rule.chances(evidence_B[:, None], self.deciding.setting_DE[row, rank : rank + 1])
        self.evidence_DE[row, rank] = evidence_B
        self.prob_DX[row, rank] = self.passed_D[row] * chances.stop_BE[:, 0]
        self.passed_D[row] *= chances.go_on_BE[:, 0]
        return 1 - self.passed_D[row] > self.deciding.u_exit_D[row]

    def _finish_probabilities(self) -> Tensor:
        """For rules that looked: the rest is the final layer's, or belongs to layers that nobody looked at."""
        exit_D1, looked_D = to_device([self.exit_D[:, None], self.known.exit_D == NONE], self.prob_DX.device)
        rank_X = torch.arange(self.prob_DX.shape[1], device=self.prob_DX.device)
        beyond_DX = (rank_X > exit_D1) & looked_D[:, None]
        unknown_DX = beyond_DX & (self.passed_D > 0)[:, None]
        prob_DX = self.prob_DX.masked_fill(beyond_DX, 0).masked_fill(unknown_DX, torch.nan)
        through_D = looked_D & (exit_D1[:, 0] == rank_X[-1])
        prob_DX[:, -1] = torch.where(through_D, self.passed_D, prob_DX[:, -1])
        return prob_DX

    def _take_unread(self) -> None:
        """The next tokens of those that were not read when their exits were decided."""
        n_exits = self.reads_DX.shape[1]
        unread = np.flatnonzero(self.unread_D)
        if not len(unread):
            return
        rows = [np.flatnonzero(self.exit_D[unread] == rank) for rank in range(n_exits)]
        [row, *rows_X] = to_device([unread, *rows], self.hidden_DW.device)
        given, u_B = self.deciding.given_D, self.deciding.u_token_D[row]
        given = None if given is None else given[row]
        hidden_BW = self.hidden_DW[row]
        self.picked.put(row, read_tokens(self.decoder, hidden_BW, rows_X, self.decoding, u_B, given))
        self.reads_DX[unread, self.exit_D[unread]] += 1


def in_parts(rows: np.ndarray) -> list[np.ndarray]:
    """These rows, in parts of so many that one call of a layer may take."""
    return [rows[start : start + TOKENS_PER_CALL] for start in range(0, len(rows), TOKENS_PER_CALL)]


def padded_for(device: torch.device, rows: np.ndarray) -> np.ndarray:
    """Repeat the last of these rows on a CPU, where every new number of them costs time and memory.

    `batch.MAX_BATCH_SIZES` says why; few numbers are used.
    """
    size = rounded(len(rows)) if device.type == "cpu" else len(rows)
    return np.pad(rows, (0, size - len(rows)), mode="edge")


def rounded(n_rows: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, …: two sizes per power of two."""
    power = 1 << max(0, n_rows - 1).bit_length()
    return power * 3 // 4 if power > 2 and n_rows <= power * 3 // 4 else power
