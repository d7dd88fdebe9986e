"""The pass in which each token leaves where its rule says: layer by layer, as far as exits are not known before.

Everything at a layer depends only on decisions at the layers below it. So one pass serves generation, with one new
token per row, and scoring, with all tokens of a text at once (`eexit.decode.score`).

Shapes: B rows, T tokens of a row that are to exit, D = B · T of them, E exitable layers, X = E + 1 with the final layer
last, W width of the residual stream, H width of what the head takes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.cpu.chosen import Chosen
from eexit.decode.reading import LayerReading, Picked, Reader, Reading, read_ready, read_tokens
from eexit.decode.requests import Decoding
from eexit.decode.rows import MISSED, NONE, CheckedNumbers, RuleOfRows
from eexit.decode.student import Leaving, Left, Passing
from eexit.method.rules import LOGITS, ONLINE, ORACLES, RULES, Chances, Look, Rule
from eexit.method.screen import ScreenReading
from eexit.method.stick_breaking import choose_exits, exit_probabilities
from eexit.model.layers import Inputs, Layer


@dataclass(frozen=True)
class Deciding:
    """What decides the exits of tokens besides the pass itself: rule, parameter and uniform draws.

    `is_everywhere` says that every token has a rule, which the host knows.
    """

    rules: Sequence[RuleOfRows]
    rule_D: Tensor  # an index into `rules`; NONE for `normal`
    parameter_DE: Tensor  # of the rule; NaN outside the exit set
    u_exit_D: Tensor
    u_token_D: Tensor
    is_everywhere: bool
    given_D: Tensor | None = None  # their next tokens, if they are not to be found
    checked: CheckedNumbers = field(default_factory=CheckedNumbers)


@dataclass(frozen=True)
class Decision:
    """What each token's rule saw, the distribution over exits that follows, and the exit drawn from it."""

    evidence_DE: Tensor  # NaN where the rule looks at nothing
    prob_DX: Tensor
    exit_D: Tensor  # index into X


@dataclass(frozen=True)
class ExitsTaken:
    """Where tokens exited and what came of it."""

    exit_D: Tensor  # index into X
    prob_DX: Tensor  # the distribution they were drawn from; NaN for layers that were not looked at and had a chance
    evidence_DE: Tensor
    are_decided: bool  # False: all tokens are those of `normal`
    picked: Picked
    ready_DH: Tensor  # what goes into the head at the exits, of those tokens that were read there
    missed_D: Tensor | None  # with a screen: whether it let a token exit, and had missed the likeliest token

    def columns(self, layer_X: Tensor) -> dict[str, Tensor]:
        """Return what is recorded of each row's new token, by column; `layer_X` are the layers of X."""
        columns = {"exit_layer_T": layer_X[self.exit_D], **self.picked.columns()}
        if self.are_decided:
            columns |= {"exit_prob_TX": self.prob_DX, "evidence_TE": self.evidence_DE}
        return columns if self.missed_D is None else columns | {MISSED: self.missed_D}


def decide(deciding: Deciding, reading: Reading | None = None) -> Decision:
    """Draw the exits that are known before a pass, by stick-breaking with one uniform of each token.

    They are those of `normal`, which never exits, of rules that look at nothing, and of oracles, which look at the
    teacher's `reading`. For tokens of online rules, the decision holds nothing.
    """
    evidence_DE = torch.full_like(deciding.parameter_DE, torch.nan)
    known = {index: rule.name for index, rule in enumerate(deciding.rules) if rule.name not in ONLINE}
    if not known:
        exit_D = torch.full_like(deciding.rule_D, evidence_DE.shape[1])
        prob_DX = torch.nn.functional.pad(torch.zeros_like(evidence_DE), (0, 1), value=1)
        return Decision(evidence_DE, prob_DX, exit_D)
    stop_DE = torch.zeros_like(evidence_DE)
    go_on_DE = stop_DE + 1
    for index, name in known.items():
        of_rule_D1, seen_DE = (deciding.rule_D == index)[:, None], None
        if name in ORACLES:
            assert reading, f"{name} looks at the teacher"
            checks = deciding.checked.are_due(f"rule {name}", reading.kl_BE.device)
            checked_D1 = checks and of_rule_D1
            seen_DE = ORACLES[name].evidence(Look.at_final(reading, deciding.parameter_DE), checked_D1)
            in_set_DE = seen_DE.masked_fill(deciding.parameter_DE.isnan(), torch.nan)
            evidence_DE = torch.where(of_rule_D1, in_set_DE, evidence_DE)
        chances = RULES[name].chances_in_set(seen_DE, deciding.parameter_DE)
        stop_DE = torch.where(of_rule_D1, chances.stop_BE, stop_DE)
        go_on_DE = torch.where(of_rule_D1, chances.go_on_BE, go_on_DE)
    chances = Chances(stop_DE, go_on_DE)
    return Decision(evidence_DE, exit_probabilities(chances), choose_exits(chances, deciding.u_exit_D))


def exit_pass(
    leaving: Leaving, decoding: Decoding, inputs: Inputs, deciding: Deciding, known: Decision, keeps_ready: bool = False
) -> ExitsTaken:
    """Run tokens up to their exits, and read the next tokens there; `known` is what `decide` says of them before."""
    visit = ExitPass(leaving, decoding, deciding, known, inputs.token_BT.shape, keeps_ready)
    return visit.finish(leaving.student.run(visit, inputs))


class KnownExits(Passing):
    """The visit of a pass in which tokens leave at known exits: `known_BT` are indices into X."""

    def __init__(self, leaving: Leaving, decoding: Decoding, known_BT: Tensor, ranks: Collection[int] | None = None):
        """Begin with all tokens in the pass.

        `ranks` are the indices of the exitable layers that tokens may leave after, as far as the host knows.
        """
        self.decoder, self.decoding, self.known_D = leaving.student.decoder, decoding, known_BT.flatten()
        self.reader = Reader(self.decoder, decoding.readout)
        exits = {rank: layer for rank, layer in enumerate(decoding.exitable_layers) if ranks is None or rank in ranks}
        self.rank_of: Mapping[int, int] = {layer: rank for rank, layer in exits.items()}
        self.exit_D = torch.full_like(self.known_D, len(decoding.exitable_layers))  # index into X
        self.left_D = torch.zeros_like(self.known_D, dtype=torch.bool)
        self.ready_DH: Tensor | None = None  # what goes into the head, of tokens that are to be read after they left
        self.n_own = known_BT.shape[1]
        self.kept: dict[str, Tensor] = {}  # streams that states need, (B, T, W)
        super().__init__(leaving, self._left(is_any=False))

    def _left(self, is_any: bool) -> Left:
        shape = -1, self.n_own
        return Left(self.left_D.view(shape), self.exit_D.view(shape), is_any, {**self.kept})

    @record_function("layers")
    def visit(self, layer: Layer, hidden_BTW: Tensor) -> Tensor:
        if self.all_left:
            self.leaving.write(layer, hidden_BTW, self.left)
            return hidden_BTW
        if self.leaving.needs and not self.kept:
            self.kept = dict.fromkeys(self.leaving.needs, hidden_BTW.to(self.decoder.device))
            self.leave_as(self._left(self.own.is_any))
        after_BTW = self.leaving.run(layer, hidden_BTW, self.left)
        if (rank := self.rank_of.get(layer.index)) is not None:
            with record_function("deciding"):
                before_DW, after_DW = (
                    part[:, -self.n_own :].flatten(0, 1).to(self.decoder.device) for part in (hidden_BTW, after_BTW)
                )
                leaves_D = self.leaves(rank, before_DW, after_DW)
                if "before" in self.kept:
                    leaves_BT1 = leaves_D.view(-1, self.n_own, 1)
                    before_BTW = before_DW.view(*leaves_BT1.shape[:2], -1)
                    self.kept["before"] = torch.where(leaves_BT1, before_BTW, self.kept["before"])
                self.leave(rank, leaves_D, after_DW)
        return after_BTW

    def leaves(self, rank: int, before_DW: Tensor, after_DW: Tensor) -> Tensor:
        """Flag the tokens that leave after an exitable layer, (D,) bool, given the streams before and after it."""
        return self.known_D == rank

    def leave(self, rank: int, leaves_D: Tensor, hidden_DW: Tensor) -> None:
        """Let tokens leave after an exitable layer; `hidden_DW` are the streams of all tokens there."""
        layer, later_D = self.decoding.exitable_layers[rank], self.read_later(leaves_D)
        if later_D is not None and not (later := Chosen.of(later_D)).are_none:
            ready_NH = self.reader.ready(hidden_DW[later.rows], layer)
            if self.ready_DH is None:
                self.ready_DH = ready_NH.new_zeros(len(hidden_DW), ready_NH.shape[1])
            later.put(self.ready_DH, ready_NH)
        self.left_D, self.exit_D = self.left_D | leaves_D, self.exit_D.masked_fill(leaves_D, rank)
        self.leave_as(self._left(self.own.is_any or leaves_D.device.type != "cpu" or bool(leaves_D.any())))
        may_owe = self.n_own == 1  # of a step's tokens; those of whole texts would be too many to run together later
        if self.own.is_any and (may_owe or self.leaving.all_alter):
            self.all_left = self.have_all_left(rank)

    @cached_property
    def deepest(self) -> int:
        """Return the last index into X that a token leaves at, for which the host waits unless it knows that."""
        return int(self.known_D.max())

    def have_all_left(self, rank: int) -> bool:
        """Say whether no token goes on after an exitable layer."""
        return rank >= self.deepest

    def read_later(self, leaves_D: Tensor) -> Tensor | None:
        """Flag the leaving tokens that are read when the pass has ended, (D,) bool; None: none is."""
        return leaves_D

    def ready(self, ready_BTH: Tensor) -> Tensor:
        """Return what goes into the head where each token is read, (D, H), given that after the final layer."""
        own_DH = ready_BTH[:, -self.n_own :].flatten(0, 1)
        return own_DH if self.ready_DH is None else torch.where(self.left_D[:, None], self.ready_DH, own_DH)


class ExitPass(KnownExits):
    """The visit of a pass in which rules decide which tokens leave, and what they have seen so far.

    A layer that the whole head reads to decide also gives the next tokens. With `keeps_ready`, what goes into the head
    is kept for all tokens.
    """

    def __init__(
        self, leaving: Leaving, decoding: Decoding, deciding: Deciding, known: Decision, shape: Sequence[int],
        keeps_ready: bool = False,
    ):  # fmt: skip
        ranks = {rank for rule in deciding.rules for rank in rule.ranks}
        super().__init__(leaving, decoding, known.exit_D.view(*shape), ranks)
        self.deciding = deciding
        self.online: Mapping[int, Rule] = {
            index: ONLINE[rule.name] for index, rule in enumerate(deciding.rules) if rule.name in ONLINE
        }
        all_online = len(self.online) == len(deciding.rules)
        by_head = all_online and all(rule.reads for rule in self.online.values())
        self.keeps_logits = any(rule.needs == LOGITS for rule in self.online.values())
        self.keeps_ready, self.reads_at_once = keeps_ready, by_head and not decoding.screen and not keeps_ready
        self.unread_D = torch.ones_like(self.left_D)
        self.prob_DX, self.evidence_DE = known.prob_DX, known.evidence_DE
        self.passed_D = torch.ones_like(deciding.u_exit_D)  # the chance of having passed all layers so far
        self.likeliest_DE: Tensor | None = None  # only where what layers said is compared later
        if decoding.screen or any(rule.compares for rule in self.online.values()):
            self.likeliest_DE = torch.full_like(deciding.parameter_DE, NONE, dtype=torch.long)
        self.picked: Picked | None = None

    def have_all_left(self, rank: int) -> bool:
        if not self.deciding.is_everywhere:
            return False
        return bool(self.left_D.all()) if self.online else super().have_all_left(rank)

    def read_later(self, leaves_D: Tensor) -> Tensor | None:
        if self.reads_at_once:
            return None
        return leaves_D if self.keeps_ready else leaves_D & self.unread_D

    def leaves(self, rank: int, before_DW: Tensor, after_DW: Tensor) -> Tensor:
        """Flag the tokens that are known to leave, and those whose rules say so: (D,) bool."""
        leaves_D = super().leaves(rank, before_DW, after_DW)
        going_D = ~self.left_D
        looking = {
            index: self._let_through(rank, index, going_D & (self.deciding.rule_D == index), after_DW)
            for index, rule in enumerate(self.deciding.rules)
            if index in self.online and rank in rule.ranks
        }
        reads = [flag_D for index, flag_D in looking.items() if self.online[index].reads]
        reading = Chosen.of(reads[0] if len(reads) == 1 else torch.stack(reads).any(0)) if reads else None
        read = self._read(rank, reading, after_DW) if reading and not reading.are_none else None
        for index, flag_D in looking.items():
            if not (tokens := Chosen.of(flag_D)).are_none:
                tokens.put(leaves_D, self._draw(rank, index, tokens, (before_DW, after_DW), reading, read))
        if reading and isinstance(read, LayerReading):  # by the whole head, from which tokens are taken
            taken = Chosen.of(leaves_D if self.reads_at_once else leaves_D & reading.flag_D)
            if not taken.are_none:
                rows, u_N = reading.within(taken.flag_D).rows, self.deciding.u_token_D[taken.rows]
                self._pick(taken, read.taken(rows, self.decoding, u_N))
            if not self.reads_at_once:
                self.unread_D &= ~taken.flag_D
        return leaves_D

    def _pick(self, tokens: Chosen, picked: Picked) -> None:
        """Note the next tokens of some of the pass's tokens."""
        if self.picked is None and tokens.has_all:
            self.picked = picked
            return
        if self.picked is None:
            self.picked = Picked.room_for(len(self.left_D), self.decoding.record_top_k, self.left_D.device)
        self.picked.put(tokens, picked)

    def _let_through(self, rank: int, index: int, looking_D: Tensor, after_DW: Tensor) -> Tensor:
        """Flag the tokens among `looking_D` that the rule's gate lets through: (D,) bool."""
        if (gate_at := self.deciding.rules[index].gate) is None:
            return looking_D
        assert self.decoding.gate
        looking, passes_D = Chosen.of(looking_D), torch.zeros_like(looking_D)
        layer = self.decoding.exitable_layers[rank]
        chance_N = self.decoding.gate.chance(after_DW[looking.rows], layer, gate_at.rule)
        looking.put(passes_D, chance_N >= gate_at.threshold)
        return passes_D

    def _read(self, rank: int, tokens: Chosen, after_DW: Tensor) -> LayerReading | ScreenReading:
        """Read tokens to decide, with the whole head or through a screen."""
        ready_NH = self.reader.ready(after_DW[tokens.rows], self.decoding.exitable_layers[rank])
        given_D = self.deciding.given_D
        read: LayerReading | ScreenReading
        if self.decoding.screen:
            read = self.decoding.screen.read(ready_NH)
        else:
            given_N = None if given_D is None else given_D[tokens.rows]
            read = read_ready(self.decoder, ready_NH, self.decoding, given_N, self.keeps_logits)
        if self.likeliest_DE is not None:
            tokens.put(self.likeliest_DE[:, rank], read.likeliest_B)
        return read

    def _draw(
        self, rank: int, index: int, tokens: Chosen, streams: tuple[Tensor, Tensor], reading: Chosen | None,
        read: LayerReading | ScreenReading | None,
    ) -> Tensor:  # fmt: skip
        """Decide by stick-breaking whether the cumulative probability of exits exceeds the draw here: (N,) bool."""
        rule, rows = self.online[index], tokens.rows
        layer, parameter_N = self.decoding.exitable_layers[rank], self.deciding.parameter_DE[rows, rank]
        seen = {"before": streams[0][rows], "after": streams[1][rows]}
        if read and reading and rule.reads:
            seen |= read.seen_by(rule, reading.within(tokens.flag_D).rows)
        if rule.compares:
            assert self.likeliest_DE is not None
            ranks = [at for at in self.deciding.rules[index].ranks if at <= rank]
            seen["likeliest_so_far"] = torch.stack([self.likeliest_DE[rows, at] for at in ranks], 1)
        if rule.probes:
            assert self.decoding.probe
            seen["predicted_kl"] = self.decoding.probe.predicted_kl(seen["after"], layer, parameter_N)
        checks = self.deciding.checked.are_due(f"rule {rule.name}", parameter_N.device)
        evidence_N = rule.evidence(Look(layer, parameter=parameter_N, **seen), checks and tokens.flag_D[rows])
        chances = rule.chances(evidence_N[:, None], parameter_N[:, None])
        passed_N = self.passed_D[rows]
        tokens.put(self.evidence_DE[:, rank], evidence_N)
        tokens.put(self.prob_DX[:, rank], passed_N * chances.stop_BE[:, 0])
        passed_N = passed_N * chances.go_on_BE[:, 0]
        tokens.put(self.passed_D, passed_N)
        return 1 - passed_N > self.deciding.u_exit_D[rows]

    def finish(self, ready_BTH: Tensor) -> ExitsTaken:
        """Read the tokens that were not read to decide, given what goes into the head at the end."""
        ready_DH = self.ready(ready_BTH)
        unread = Chosen.of(~self.left_D if self.reads_at_once else self.unread_D)
        given_D, u_D = self.deciding.given_D, self.deciding.u_token_D
        if not unread.are_none:
            given_N = None if given_D is None else given_D[unread.rows]
            read = read_tokens(self.decoder, self.decoding, ready_DH[unread.rows], u_D[unread.rows], given_N)
            self._pick(unread, read)
        assert self.picked, "every token was read where it left, or here"
        return ExitsTaken(
            self.exit_D, self._finish_probabilities(), self.evidence_DE, bool(self.deciding.rules), self.picked,
            ready_DH, self._missed(self.picked),
        )  # fmt: skip

    def _finish_probabilities(self) -> Tensor:
        """Return the distribution over exits, (D, X): the rest is the final layer's, or NaN where nobody looked."""
        if not self.online:
            return self.prob_DX
        looks_D = torch.stack([self.deciding.rule_D == index for index in self.online]).any(0)  # at what has been run
        rank_X, final = torch.arange(self.prob_DX.shape[1], device=self.prob_DX.device), self.prob_DX.shape[1] - 1
        in_set_DX = torch.nn.functional.pad(~self.deciding.parameter_DE.isnan(), (0, 1), value=True)
        beyond_DX = (rank_X > self.exit_D[:, None]) & looks_D[:, None]
        unknown_DX = beyond_DX & in_set_DX & (self.passed_D > 0)[:, None]
        prob_DX = self.prob_DX.masked_fill(beyond_DX, 0).masked_fill(unknown_DX, torch.nan)
        through_D = looks_D & (self.exit_D == final)
        prob_DX[:, -1] = torch.where(through_D, self.passed_D, prob_DX[:, -1])
        return prob_DX

    def _missed(self, picked: Picked) -> Tensor | None:
        """Flag the tokens that left by what a screen took for the likeliest token, and was not: (D,) bool."""
        if not self.decoding.screen or self.likeliest_DE is None:
            return None
        at_D = self.exit_D.clamp(max=self.likeliest_DE.shape[1] - 1)
        likeliest_D = self.likeliest_DE.gather(1, at_D[:, None])[:, 0]  # NONE where the rule did not look
        return self.left_D & (likeliest_D != NONE) & (likeliest_D != picked.likeliest_B)
