"""A pass of tokens through the layers, in which each token leaves where its rule says.

Everything at a layer depends only on decisions at the layers below it. So one pass serves generation, with one new
token per row, and scoring, with all tokens of a text at once (`eexit.scoring`). Beside the tokens that are being
decided there are those that have exited before. Their layers past the exit are left out until a later token of their
row goes deeper; then they take part, all of a row's together: at full depth in modes that do not alter the state, in
other modes by what the state leaves there (deferred computation, as in EE-LLM, Chen et al. 2023).

Shapes: N tokens in a pass, D of them being decided, which come first; S slots, E exitable layers, X = E + 1 with the
final layer last, W width of the residual stream, P positions of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.anatomy import Decoder, LayerPass
from eexit.cache import KVCache
from eexit.cache_view import TokensView
from eexit.exited import ExitedTokens
from eexit.exits import choose_exits, exit_probabilities
from eexit.reading import LayerReading, Picked, read_layer, read_tokens
from eexit.rows import Decoding
from eexit.rules import BLIND, ONLINE, Chances, Look, Online
from eexit.shortlist import ShortReading
from eexit.slots import NONE, Layers
from eexit.states import STATES, alters
from eexit.transfer import to_device

BEYOND: Final = 1 << 40  # a position after any other


@dataclass(frozen=True)
class Tokens:
    """Tokens in a pass, each by itself: several may be of one row, whose keys and values are in one slot."""

    slot_N: np.ndarray
    position_N: np.ndarray
    token_N: np.ndarray
    state_N: np.ndarray  # an index into the states; NONE for `normal`
    next_N: np.ndarray  # the first layer that does not have their keys and values yet
    hidden_NW: Tensor  # the residual stream that enters it; at the exit, in modes that alter the state

    @classmethod
    def none(cls, decoder: Decoder) -> "Tokens":
        none = np.zeros(0, np.int64)
        hidden_NW = torch.zeros(0, decoder.width, dtype=decoder.dtype, device=decoder.device)
        return cls(none, none, none, none, none, hidden_NW)

    def of(self, rows: np.ndarray) -> "Tokens":
        """These tokens alone."""
        slot_N, position_N, token_N = self.slot_N[rows], self.position_N[rows], self.token_N[rows]
        [row] = to_device([rows], self.hidden_NW.device)
        return Tokens(slot_N, position_N, token_N, self.state_N[rows], self.next_N[rows], self.hidden_NW[row])

    def behind(self, first: "Tokens") -> "Tokens":
        """`first`, whose residual streams are not there yet, and then these."""
        return Tokens(
            np.concatenate([first.slot_N, self.slot_N]),
            np.concatenate([first.position_N, self.position_N]),
            np.concatenate([first.token_N, self.token_N]),
            np.concatenate([first.state_N, self.state_N]),
            np.concatenate([first.next_N, self.next_N]),
            self.hidden_NW,
        )


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
    """Where the decided tokens exited and what came of it; what was run for every token of the pass."""

    exit_D: np.ndarray  # indices into X
    prob_DX: Tensor  # the distribution they were drawn from; NaN for layers that were not looked at and had a chance
    evidence_DE: Tensor
    hidden_DW: Tensor  # the residual streams at the exits
    picked: Picked
    layers_N: np.ndarray
    keys_N: np.ndarray
    reads_DX: np.ndarray
    short_reads_DX: np.ndarray
    probed_DX: np.ndarray


def known_exits(rules: Sequence[str], deciding: Deciding) -> Known:
    """What is known of `normal`, which never exits, and of rules that look at nothing."""
    stop_DE = torch.zeros_like(deciding.setting_DE)
    go_on_DE = stop_DE + 1
    for index, name in enumerate(rules):
        its_D = deciding.rule_D == index
        if name in BLIND and its_D.any():
            [its_D1] = to_device([its_D[:, None]], stop_DE.device)
            chances = BLIND[name].chances(None, deciding.setting_DE)
            stop_DE = torch.where(its_D1, chances.stop_BE, stop_DE)
            go_on_DE = torch.where(its_D1, chances.go_on_BE, go_on_DE)
    chances = Chances(stop_DE, go_on_DE)
    exit_D = choose_exits(chances, deciding.u_exit_D).cpu().numpy()
    looks_D = np.isin(deciding.rule_D, [index for index, name in enumerate(rules) if name in ONLINE])
    exit_D[looks_D] = NONE
    return Known(exit_D, exit_probabilities(chances), torch.full_like(stop_DE, torch.nan))


class ExitPass:
    """One pass. Construct, `run`, then look at `tokens`, whose keys and values are in the cache up to `next_N`."""

    def __init__(
        self, decoder: Decoder, decoding: Decoding, layers: Layers, cache: KVCache, rules: Sequence[str],
        states: Sequence[str], tokens: Tokens, deciding: Deciding, known: Known, flush_S: np.ndarray | None = None,
        streams_SPXW: Tensor | None = None,
    ):  # fmt: skip
        """The first D of the tokens are being decided; `tokens.hidden_NW` has those of the others alone.

        Rows in `flush_S` (S,) run all layers of tokens that have exited, whether they are needed now or not. The
        residual streams after the layers of X, of tokens whose state is that of full depth, are put in `streams_SPXW`;
        position p of a row is at p modulo P there.
        """
        self.decoder, self.decoding, self.layers, self.cache = decoder, decoding, layers, cache
        self.rules, self.states, self.deciding, self.known = rules, states, deciding, known
        self.n_deciding, device = len(known.exit_D), decoder.device
        slot_N, position_N1, token_N1 = to_device(
            [tokens.slot_N, tokens.position_N[:, None], tokens.token_N[:, None]], device
        )
        self.view = TokensView(cache, slot_N, position_N1, int(tokens.position_N.max()) + 1, decoder.attends_itself)
        embedded_N1W, self.layer_pass = decoder.begin(token_N1, self.view)
        hidden_NW = torch.cat([embedded_N1W[: self.n_deciding, 0], tokens.hidden_NW])
        self.tokens = replace(tokens, next_N=tokens.next_N.copy(), hidden_NW=hidden_NW)
        self.going_N = np.arange(len(slot_N)) < self.n_deciding
        self.flush_S = np.zeros(cache.n_slots, bool) if flush_S is None else flush_S
        self.streams_SPXW = streams_SPXW
        unaltered = [index for index, name in enumerate(states) if not alters(STATES[name])]
        self.unaltered_N = np.isin(tokens.state_N, [NONE, *unaltered])
        self.exit_D = np.full(self.n_deciding, len(layers.exits) - 1)
        self.prob_DX, self.evidence_DE = known.prob_DX, known.evidence_DE
        self.passed_D = torch.ones_like(deciding.u_exit_D)  # the chance of having passed all layers so far
        self.likeliest_DE = torch.zeros_like(deciding.setting_DE, dtype=torch.long)
        self.exit_hidden_DW = torch.empty_like(hidden_NW[: self.n_deciding])
        self.picked = Picked.room_for(self.n_deciding, decoding.record_top_k, device)
        self.unread_D = np.ones(self.n_deciding, bool)
        self.layers_N, self.keys_N = np.zeros((2, len(slot_N)), np.int64)
        self.reads_DX, self.short_reads_DX, self.probed_DX = np.zeros((3, self.n_deciding, len(layers.exits)), np.int64)
        if decoding.shortlist:
            self.shortlist_DK = self.likeliest_DE.new_zeros(self.n_deciding, decoding.shortlist.n_tokens)

    def run(self) -> ExitsTaken:
        with self.decoder.attending():
            for rank, (start, end) in enumerate(self.layers.segments):
                with record_function("layers"):
                    ran = self._run_layers(rank, start, end)
                if rank < len(self.decoding.exitable_layers) and ran is not None:
                    with record_function("deciding"):
                        self._decide(rank, *ran)
            self._take_unread()
        prob_DX = self._finish_probabilities()
        return ExitsTaken(
            self.exit_D, prob_DX, self.evidence_DE, self.exit_hidden_DW, self.picked,
            self.layers_N, self.keys_N, self.reads_DX, self.short_reads_DX, self.probed_DX,
        )  # fmt: skip

    def _run_layers(self, rank: int, start: int, end: int) -> tuple[np.ndarray, Tensor, Tensor] | None:
        """Run these layers for the tokens that go on, and for those that have exited and are needed now.

        Returns the former, and their residual streams before and after the last of the layers.
        """
        tokens, hidden_NW = self.tokens, self.tokens.hidden_NW
        waiting_N = ~self.going_N & (tokens.next_N == start) & (tokens.position_N < self._needed_S()[tokens.slot_N])
        altered = [
            (STATES[name], np.flatnonzero(waiting_N & ~self.unaltered_N & (tokens.state_N == index)))
            for index, name in enumerate(self.states)
        ]
        exited = [(state, rows, self._exited(rows)) for state, rows in altered if len(rows)]
        running = np.flatnonzero(self.going_N | (waiting_N & self.unaltered_N))
        before_BTW = after_BTW = hidden_NW[:0, None]
        if len(running):
            rows = padded_for(self.decoder.device, running)
            [row] = to_device([rows], hidden_NW.device)
            layer_pass, after_BTW = self._among(row), hidden_NW[row, None]
        for layer in range(start, end):
            for state, _, out in exited:
                state.fill(layer, out)
            if len(running):
                before_BTW, after_BTW = after_BTW, layer_pass.block(layer, after_BTW)
        for _, rows, out in exited:
            self.keys_N[rows] += out.n_written
        tokens.next_N[waiting_N | self.going_N] = end
        if not len(running):
            return None
        hidden_NW[row[: len(running)]] = after_BTW[: len(running), 0]
        self.layers_N[running] += end - start
        self._keep_streams(rank, running, after_BTW)
        going = self.going_N[running]
        if not going.any():
            return None
        [at] = to_device([np.flatnonzero(going)], hidden_NW.device)
        return running[going], before_BTW[at, 0], after_BTW[at, 0]

    def _keep_streams(self, rank: int, running: np.ndarray, after_BTW: Tensor) -> None:
        if self.streams_SPXW is None:
            return
        kept = np.flatnonzero(self.unaltered_N[running])
        place = self.tokens.position_N[running[kept]] % self.streams_SPXW.shape[1]
        slot_K, place_K, at_K = to_device([self.tokens.slot_N[running[kept]], place, kept], after_BTW.device)
        self.streams_SPXW[slot_K, place_K, rank] = after_BTW[at_K, 0]

    def _needed_S(self) -> np.ndarray:
        """For each slot, the position before which the next layers need keys and values."""
        needed_S = np.where(self.flush_S, BEYOND, -1)
        np.maximum.at(needed_S, self.tokens.slot_N[self.going_N], self.tokens.position_N[self.going_N])
        return needed_S

    def _among(self, row: Tensor) -> LayerPass:
        return self.layer_pass.among(row, self.view.among(row))

    def _exited(self, rows: np.ndarray) -> ExitedTokens:
        [row] = to_device([padded_for(self.decoder.device, rows)], self.tokens.hidden_NW.device)
        return ExitedTokens(self._among(row), self.tokens.hidden_NW[row, None])

    def _decide(self, rank: int, going: np.ndarray, before_GW: Tensor, after_GW: Tensor) -> None:
        """Let the rules of the tokens that have come this far say which of them exit here."""
        exits = self.known.exit_D[going] == rank
        looking = np.flatnonzero(self.known.exit_D[going] == NONE)
        if len(looking):
            exits[looking] = self._look(rank, going[looking], looking, before_GW, after_GW)
        [out, at] = to_device([going[exits], np.flatnonzero(exits)], after_GW.device)
        self.exit_D[going[exits]] = rank
        self.exit_hidden_DW[out] = after_GW[at]
        self.going_N[going[exits]] = False

    def _look(self, rank: int, looking: np.ndarray, at: np.ndarray, before_GW: Tensor, after_GW: Tensor) -> np.ndarray:
        """Which of these tokens exit, by rules that look; `at` is where they are in the streams."""
        rule_B, device = self.deciding.rule_D[looking], after_GW.device
        online = {index: ONLINE[name] for index, name in enumerate(self.rules) if name in ONLINE}
        reads_B = np.isin(rule_B, [index for index, rule in online.items() if rule.reads])
        probes_B = np.isin(rule_B, [index for index, rule in online.items() if rule.probes])
        self.probed_DX[looking[probes_B], rank] += 1
        [row_B, at_B, read_at] = to_device([looking, at, at[reads_B]], device)
        read = self._read(rank, looking[reads_B], after_GW[read_at]) if len(read_at) else None
        place_B = np.cumsum(reads_B) - 1  # among the rows that were read
        exits_B = torch.zeros(len(looking), dtype=torch.bool, device=device)
        for index in np.unique(rule_B).tolist():
            rule = online[index]
            [its, its_place] = to_device([np.flatnonzero(rule_B == index), place_B[rule_B == index]], device)
            row = row_B[its]
            look = Look(
                self.decoding.exitable_layers[rank],
                before_GW[at_B[its]],
                after_GW[at_B[its]],
                read.distribution(its_place) if read and rule.reads else None,
                self.likeliest_DE[row, : rank + 1] if rule.reads else None,
                self.deciding.setting_DE[row, rank],
                self.decoding.probe,
            )
            exits_B[its] = self._draw(rank, row, rule, look)
        exits = exits_B.cpu().numpy()
        taken = np.flatnonzero(exits & reads_B)
        if len(taken) and isinstance(read, LayerReading):
            [row, place] = to_device([looking[taken], place_B[taken]], device)
            self.picked.put(row, read.taken(place, self.decoding, self.deciding.u_token_D[row]))
            self.unread_D[looking[taken]] = False
        return exits

    def _read(self, rank: int, reading: np.ndarray, hidden_BW: Tensor) -> LayerReading | ShortReading:
        """Read these tokens to decide: with the whole head or, where there is one by now, for their shortlists."""
        shortlist, layer = self.decoding.shortlist, self.decoding.exitable_layers[rank]
        [row] = to_device([reading], hidden_BW.device)
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
        final = np.flatnonzero(self.exit_D == n_exits - 1)
        unread = np.flatnonzero(self.unread_D)
        if not len(unread):
            return
        places = [np.flatnonzero(self.exit_D[unread] == rank) for rank in range(n_exits)]
        [row, through, *places_X] = to_device([unread, final, *places], self.exit_hidden_DW.device)
        self.exit_hidden_DW[through] = self.tokens.hidden_NW[through]
        given, u_B = self.deciding.given_D, self.deciding.u_token_D[row]
        given = None if given is None else given[row]
        hidden_BW = self.exit_hidden_DW[row]
        self.picked.put(row, read_tokens(self.decoder, hidden_BW, places_X, self.decoding, u_B, given))
        self.reads_DX[unread, self.exit_D[unread]] += 1


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
