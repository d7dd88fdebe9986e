"""The pass in which each token leaves where its rule says: layer by layer, as far as exits are not known before.

Everything at a layer depends only on decisions at the layers below it. So one pass serves generation, with one new
token per row, and scoring, with all tokens of a text at once (`eexit.decode.scoring`). How tokens go through the layers
is in `eexit.decode.token_pass`.

Shapes: B of the tokens, D tokens that are to exit, E exitable layers, X = E + 1 with the final layer last, W width of
the residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.decode.costs.counting import LOOKS, MISSES
from eexit.decode.layer_reading import LayerReading, Picked, Reader, Reading, read_layer, read_tokens, rows_after
from eexit.decode.rows.requests import Decoding
from eexit.decode.rows.slots import RuleOfRows, Slots
from eexit.decode.rows.transfer import index_among, to_device
from eexit.decode.token_pass import StudentRows, Through, TokenPass, Tokens
from eexit.method.rules import BLIND, ONLINE, ORACLES, Chances, Look, Online, chances_in_set
from eexit.method.screen import ScreenReading
from eexit.method.stick_breaking import choose_exits, exit_probabilities


@dataclass(frozen=True)
class Deciding:
    """The tokens that are being decided, as far as their exits depend on anything but the pass itself."""

    rules: Sequence[RuleOfRows]
    rule_D: np.ndarray  # an index into `rules`; NONE for `normal`
    sent_rule_D: Tensor  # the same on the device
    parameter_DE: Tensor  # of the rule; NaN outside the exit set
    u_exit_D: Tensor
    u_token_D: Tensor
    given_D: Tensor | None = None  # their next tokens, if they are not to be found


@dataclass(frozen=True)
class Decision:
    """What each token's rule saw, the distribution over exits that follows, and the exit drawn from it."""

    evidence_DE: Tensor  # NaN where the rule looks at nothing
    prob_DX: Tensor
    exit_D: Tensor  # index into X


@dataclass(frozen=True)
class ExitsTaken:
    """Where the decided tokens exited and what came of it."""

    exit_D: np.ndarray  # indices into X
    prob_DX: Tensor  # the distribution they were drawn from; NaN for layers that were not looked at and had a chance
    evidence_DE: Tensor
    hidden_DW: Tensor  # the residual streams at the exits
    picked: Picked
    through: Sequence[Through] = ()


def decide(deciding: Deciding, reading: Reading | None = None) -> Decision:
    """The exits that are known before a pass: stick-breaking, with one uniform draw of each token.

    Those of `normal`, which never exits, of rules that look at nothing, and of oracles, which look at the teacher's
    `reading`. What is said of tokens of other rules means nothing.
    """
    stop_DE = torch.zeros_like(deciding.parameter_DE)
    go_on_DE, evidence_DE = stop_DE + 1, torch.full_like(stop_DE, torch.nan)
    for index, (name, *_) in enumerate(deciding.rules):
        if name in ONLINE:
            continue
        of_rule_D1 = (deciding.sent_rule_D == index)[:, None]
        if name in BLIND:
            chances = chances_in_set(BLIND[name], None, deciding.parameter_DE)
        else:
            assert reading, f"{name} looks at the teacher"
            seen_DE = ORACLES[name].evidence(reading)
            chances = chances_in_set(ORACLES[name], seen_DE, deciding.parameter_DE)
            seen_DE = seen_DE.masked_fill(deciding.parameter_DE.isnan(), torch.nan)
            evidence_DE = torch.where(of_rule_D1, seen_DE, evidence_DE)
        stop_DE = torch.where(of_rule_D1, chances.stop_BE, stop_DE)
        go_on_DE = torch.where(of_rule_D1, chances.go_on_BE, go_on_DE)
    chances = Chances(stop_DE, go_on_DE)
    return Decision(evidence_DE, exit_probabilities(chances), choose_exits(chances, deciding.u_exit_D))


def last_tokens(batch: Slots) -> Tokens:
    """Each row's last token, which is decided next."""
    slots = np.arange(batch.n_rows)
    return Tokens(slots, batch.n_generated[slots] - 1, batch.last_token().astype(np.int64))


def deciding_of(batch: Slots, device: torch.device) -> Deciding:
    """How each row's last token is decided."""
    slots, n_generated = np.arange(batch.n_rows), batch.n_generated[: batch.n_rows]
    uniform = batch.u_exit[slots, n_generated], batch.u_token[slots, n_generated]
    sent = to_device([batch.rule[slots], batch.parameter[slots], *uniform], device)
    return Deciding(batch.rules, batch.rule[slots], *sent)


def exit_pass(
    student: StudentRows, decoding: Decoding, tokens: Tokens, deciding: Deciding, reading: Reading | None = None
) -> ExitsTaken:
    """Run tokens up to their exits, and read their next tokens there; oracles look at the teacher's `reading`."""
    return ExitPass(student, decoding, tokens, deciding, decide(deciding, reading)).run()


class ExitPass:
    """One pass, and what its rules have seen so far."""

    def __init__(self, student: StudentRows, decoding: Decoding, tokens: Tokens, deciding: Deciding, known: Decision):
        self.token_pass, self.decoder = TokenPass(student, tokens), student.decoder
        self.decoding, self.deciding = decoding, deciding
        self.layers = np.array([end - 1 for _, end in student.segments])
        n_tokens, n_exits, device = len(tokens.slot_D), len(student.segments), student.decoder.device
        self.gates = {index: rule.gate for index, rule in enumerate(deciding.rules) if rule.gate}
        self.online = {index: ONLINE[name] for index, (name, *_) in enumerate(deciding.rules) if name in ONLINE}
        self.looks_DX = np.zeros((n_tokens, n_exits), bool)  # which layers the tokens' rules look at
        for index in self.online:
            self.looks_DX[np.ix_(deciding.rule_D == index, deciding.rules[index].ranks)] = True
        rules = [ONLINE.get(name) for name, *_ in deciding.rules]
        self.looks_D = self._of_tokens([rule is not None for rule in rules])
        self.reads_D = self._of_tokens([rule is not None and rule.reads for rule in rules])
        self.probes_D = self._of_tokens([rule is not None and rule.probes for rule in rules])
        self.exit_D = np.where(self.looks_D, n_exits - 1, known.exit_D.cpu().numpy())
        self.prob_DX, self.evidence_DE = known.prob_DX, known.evidence_DE
        self.passed_D = torch.ones_like(deciding.u_exit_D)  # the chance of having passed all layers so far
        self.likeliest_DE = torch.zeros_like(deciding.parameter_DE, dtype=torch.long)
        self.picked = Picked.room_for(n_tokens, decoding.record_top_k, device)
        self.unread_D = np.ones(n_tokens, bool)
        self.looks_DXK = np.zeros((n_tokens, n_exits, len(LOOKS)), np.int64)  # how often each looked after each layer

    def run(self) -> ExitsTaken:
        with self.decoder.attending():
            for rank in range(len(self.layers)):
                going = self.token_pass.going
                if not len(going):
                    break
                self.token_pass.run_segment(rank)
                if rank < len(self.decoding.exitable_layers):
                    self._decide(rank, going)
            self._take_unread()
        tokens, counts = self.token_pass.tokens, self.token_pass.student.counts
        if counts:
            counts["looks_TXK"][tokens.slot_D, tokens.input_index_D] += self.looks_DXK
        return ExitsTaken(
            self.exit_D, self._finish_probabilities(), self.evidence_DE, self.token_pass.hidden_DW, self.picked,
            self.token_pass.through,
        )  # fmt: skip

    def _of_tokens(self, of_rules: Sequence[bool]) -> np.ndarray:
        """By token, what holds of its rule; it holds of no token without one, whose rule is `NONE`."""
        of_tokens: np.ndarray = np.array([*of_rules, False])[self.deciding.rule_D]
        return of_tokens

    def _row(self, tokens: np.ndarray) -> Tensor | slice:
        """These of the tokens, as an index into what the device has of all of them."""
        return index_among(tokens, len(self.unread_D), self.decoder.device)

    def _decide(self, rank: int, going: np.ndarray) -> None:
        """Let the rules of the tokens that have come this far say which of them exit here."""
        looking = going[self.looks_DX[going, rank]]
        if len(looking):
            with record_function("deciding"):
                looking = self._let_through(rank, looking)
                if len(looking):
                    self.exit_D[looking[self._look(rank, looking)]] = rank
        self.token_pass.leave(rank, going[self.exit_D[going] == rank])

    def _let_through(self, rank: int, looking: np.ndarray) -> np.ndarray:
        """Of the tokens that rules would look at after this layer, those that no gate keeps from it."""
        layer, passes_B = self.decoding.exitable_layers[rank], np.ones(len(looking), bool)
        for index, gate_at in self.gates.items():
            of_rule_B = self.deciding.rule_D[looking] == index
            if not of_rule_B.any():
                continue
            assert self.decoding.gate
            hidden_BW = self.token_pass.hidden_DW[self._row(looking[of_rule_B])]
            chance_B = self.decoding.gate.chance(hidden_BW, layer, gate_at.rule)
            passes_B[of_rule_B] = (chance_B >= gate_at.threshold).cpu().numpy()
            self._count("gate_reads", looking[of_rule_B], rank)
        return looking[passes_B]

    def _look(self, rank: int, looking: np.ndarray) -> np.ndarray:
        """Which of these tokens exit, by rules that look."""
        rule_B, reads_B, device = self.deciding.rule_D[looking], self.reads_D[looking], self.decoder.device
        self._count("probe_reads", looking[self.probes_D[looking]], rank)
        read = self._read(rank, looking[reads_B]) if reads_B.any() else None
        index_read_B = np.cumsum(reads_B) - 1  # among the rows that are read
        exits_B = torch.zeros(len(looking), dtype=torch.bool, device=device)
        for index in np.unique(rule_B).tolist():
            rule, ranks = self.online[index], self.deciding.rules[index].ranks
            of_rule = np.flatnonzero(rule_B == index)
            row = self._row(looking[of_rule])
            seen = None
            if read and rule.reads:
                seen = read.distribution(index_among(index_read_B[of_rule], reads_B.sum(), device))
            look = Look(
                self.decoding.exitable_layers[rank],
                self.token_pass.before_DW[row],
                self.token_pass.hidden_DW[row],
                seen,
                self._likeliest(row, [at for at in ranks if at <= rank]) if rule.compares else None,
                self.deciding.parameter_DE[row, rank],
                self.decoding.probe,
            )
            exits_B[index_among(of_rule, len(looking), device)] = self._draw(rank, row, rule, look)
        exits = exits_B.cpu().numpy()
        taken = np.flatnonzero(exits & reads_B)
        if len(taken) and isinstance(read, LayerReading):  # by the whole head, from which tokens are taken
            [row_B, index_read_T] = to_device([looking[taken], index_read_B[taken]], device)
            self.picked.put(row_B, read.taken(index_read_T, self.decoding, self.deciding.u_token_D[row_B]))
            self.unread_D[looking[taken]] = False
        return exits

    def _likeliest(self, row: Tensor | slice, ranks: Sequence[int]) -> Tensor:
        """The likeliest tokens at these exitable layers; indices in a list would be sent to the device once more."""
        likeliest_BE = self.likeliest_DE[row]
        return torch.stack([likeliest_BE[:, rank] for rank in ranks], 1)

    def _read(self, rank: int, reading: np.ndarray) -> LayerReading | ScreenReading:
        """Read these tokens to decide, with the whole head or through a screen."""
        row, given, screen = self._row(reading), self.deciding.given_D, self.decoding.screen
        hidden_BW = self.token_pass.hidden_DW[row]
        self._count("screen_reads" if screen else "head_reads", reading, rank)
        read: LayerReading | ScreenReading
        if screen:
            layer = self.decoding.exitable_layers[rank]
            read = screen.read(Reader(self.decoder, self.decoding.readout).ready(hidden_BW, layer))
        else:
            read = read_layer(self.decoder, hidden_BW, rank, self.decoding, None if given is None else given[row])
        self.likeliest_DE[row, rank] = read.likeliest_B
        return read

    def _count(self, name: str, looked_at: np.ndarray, rank: int | np.ndarray) -> None:
        self.looks_DXK[looked_at, rank, LOOKS.index(name)] += 1

    def _draw(self, rank: int, row: Tensor | slice, rule: Online, look: Look) -> Tensor:
        """Stick-breaking, one layer at a time: the first layer whose cumulative probability exceeds the draw."""
        evidence_B = rule.evidence(look)
        chances = rule.chances(evidence_B[:, None], look.parameter_B[:, None])
        self.evidence_DE[row, rank] = evidence_B
        self.prob_DX[row, rank] = self.passed_D[row] * chances.stop_BE[:, 0]
        self.passed_D[row] *= chances.go_on_BE[:, 0]
        return 1 - self.passed_D[row] > self.deciding.u_exit_D[row]

    def _finish_probabilities(self) -> Tensor:
        """For rules that looked: the rest is the final layer's, or belongs to layers that nobody looked at."""
        looks_DX = self.looks_DX.copy()
        looks_DX[:, -1] = self.looks_D
        exit_D1, looked_DX = to_device([self.exit_D[:, None], looks_DX], self.prob_DX.device)
        rank_X = torch.arange(self.prob_DX.shape[1], device=self.prob_DX.device)
        beyond_DX = (rank_X > exit_D1) & looked_DX[:, -1:]
        unknown_DX = beyond_DX & looked_DX & (self.passed_D > 0)[:, None]
        prob_DX = self.prob_DX.masked_fill(beyond_DX, 0).masked_fill(unknown_DX, torch.nan)
        through_D = looked_DX[:, -1] & (exit_D1[:, 0] == rank_X[-1])
        prob_DX[:, -1] = torch.where(through_D, self.passed_D, prob_DX[:, -1])
        return prob_DX

    def _take_unread(self) -> None:
        """The next tokens of those that were not read when their exits were decided."""
        unread = np.flatnonzero(self.unread_D)
        if len(unread):
            row, exits, given = self._row(unread), self.exit_D[unread], self.deciding.given_D
            rows = rows_after(self.layers[exits], self.decoder.device)
            hidden_BW, u_B = self.token_pass.hidden_DW[row], self.deciding.u_token_D[row]
            given = None if given is None else given[row]
            self.picked.put(row, read_tokens(self.decoder, self.decoding, hidden_BW, rows, u_B, given))
            self._count("head_reads", unread, exits)
            self._count_misses(unread)

    def _count_misses(self, unread: np.ndarray) -> None:
        """Count the tokens that left by what a screen had taken for the likeliest token, and was not."""
        if not self.decoding.screen:
            return
        left = unread[(self.exit_D[unread] < len(self.decoding.exitable_layers)) & self.reads_D[unread]]
        if len(left):
            row, exits = to_device([left, self.exit_D[left]], self.decoder.device)
            missed_B = self.likeliest_DE[row, exits] != self.picked.likeliest_B[row]
            missed = left[missed_B.cpu().numpy()]
            self._count(MISSES, missed, self.exit_D[missed])
