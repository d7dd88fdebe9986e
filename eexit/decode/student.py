"""The student: the decoder that exits leave out layers of, its keys and values, and what it still owes.

All rows go through a layer together. Past a token's exit, the mode says what the next layer gets, and what is left for
later tokens. Where all tokens have left, layers are left out: modes that alter the state have keys and values written
alone, and for `unfrozen`, which keeps the full-depth state, the rest of the layers is deferred for all rows of the step
(as in EE-LLM, Chen et al. 2023). Deferred tokens run together with the next step that goes as deep, or in blocks of
DEFERRED_TOKENS before it where they are more.

Shapes: B rows, T tokens of a pass, N deferred tokens of a row, D tokens of all rows, W width of the residual stream, X
exitable layers and then the final one.
"""

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eexit.cpu.chosen import Chosen
from eexit.decode.rows import NONE, CheckedNumbers, Rows, to_device
from eexit.method.state_maps import KEYS, StateMaps
from eexit.method.states import STATES, Deeper, Exited, Leaves, State, alters
from eexit.model.cache import KVCache
from eexit.model.keys_alone import Projection
from eexit.model.layers import Decoder, Inputs, Layer

DEFERRED_TOKENS: Final = 1024  # of all rows, that run at a time: their activations take 15 times their hidden states
PIECE_TOKENS: Final = 32  # of a row, that are kept in one tensor: a step copies so many at most


@dataclass(frozen=True)
class Left:
    """Which of a pass's tokens have left, and where: `exit_BT` are indices into X, the final one for others.

    `is_any` says that some may have left, as far as the host knows. `kept` are streams of all tokens, (B, T, W), that
    own states look at, by the names of `Exited`.
    """

    flag_BT: Tensor
    exit_BT: Tensor
    is_any: bool = True
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    found: dict[Hashable, Tensor] = field(default_factory=dict)  # what layers have asked of these tokens so far

    def find(self, what: Hashable, find: Callable[[], Tensor]) -> Tensor:
        """Return what `find` makes of these flags and exits, found once for all layers and kept by the name `what`."""
        if what not in self.found:
            self.found[what] = find()
        return self.found[what]

    def of(self, rows: Tensor) -> "Left":
        """Take these rows alone, in this order."""
        kept = {name: each[rows] for name, each in self.kept.items()}
        return Left(self.flag_BT[rows], self.exit_BT[rows], self.is_any, kept)

    @classmethod
    def joined(cls, parts: Sequence["Left"]) -> "Left":
        """Join parts along T."""
        kept = {name: torch.cat([part.kept[name] for part in parts], 1) for name in parts[0].kept}
        flag_BT, exit_BT = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("flag_BT", "exit_BT"))
        return cls(flag_BT, exit_BT, any(part.is_any for part in parts), kept)


class Leaving:
    """What the tokens of a student's rows leave in layers past their exits, by the rows' states, numbered in `states`.

    `state_B` are the numbers of the rows' states. `is_everywhere` says that every row has one, which the host knows.
    """

    def __init__(
        self, student: "Student", states: Mapping[str, int], state_B: Tensor, is_everywhere: bool,
        maps: StateMaps | None = None, checked: CheckedNumbers | None = None,
    ):  # fmt: skip
        self.student, self.cache, self.maps = student, student.cache, maps
        self.checked = checked or CheckedNumbers()
        self.states, self.state_B, self.is_everywhere = states, state_B, is_everywhere
        self.altering = tuple(name for name in states if alters(STATES[name]))
        self.hiding = tuple(name for name in states if STATES[name].leaves is Leaves.NOTHING)
        self.copying = tuple(name for name in states if STATES[name].leaves is Leaves.COPY)
        self.saying = [STATES[name] for name in states if STATES[name].says]
        self.needs = {need for name in states for need in STATES[name].needs}  # streams that `Left.kept` has

    @classmethod
    def of(cls, student: "Student", rows: Rows, n_rows: int) -> "Leaving":
        """What the first `n_rows` rows leave, by the states that there are among them."""
        there = set(rows.state[:n_rows].tolist())
        states = {name: index for index, name in enumerate(rows.states) if index in there}
        maps = rows.decoding.state_maps
        return cls(student, states, rows.asked.state_B[:n_rows], NONE not in there, maps, rows.checked)

    @property
    def all_alter(self) -> bool:
        """Whether every row's exits alter what later tokens see."""
        return self.is_everywhere and len(self.altering) == len(self.states)

    def run(self, layer: Layer, hidden_BTW: Tensor, left: Left) -> Tensor:
        """Run a layer for all tokens; return what the next layer gets, (B, T, W).

        For tokens that have left in a state that alters what later tokens see, that is the stream at their exits.
        """
        if not self.altering or not (left.is_any or layer.index in self.cache.hidden):
            return layer.run(hidden_BTW)
        layer, entering_BTW, projections = self._prepare(layer, hidden_BTW, left)
        after_BTW = layer.run(entering_BTW, projections)
        self.cache.rewrite = None
        frozen_BT = self._of(self.altering, left, after_BTW.device)
        return torch.where(frozen_BT[..., None], hidden_BTW.to(after_BTW.device), after_BTW)

    def write(self, layer: Layer, hidden_BTW: Tensor, left: Left) -> None:
        """Write what tokens leave in a layer that all of them have left before, without running it."""
        layer, entering_BTW, projections = self._prepare(layer, hidden_BTW, left)
        if any(STATES[name].writes_keys for name in self.states):
            layer.write_keys(entering_BTW, projections)
        elif self.copying:
            self.cache.copy_layer(layer.index - 1, layer.index, hidden_BTW.shape[1])
        self.cache.rewrite = None

    def _prepare(self, layer: Layer, hidden_BTW: Tensor, left: Left) -> tuple[Layer, Tensor, Sequence[Projection]]:
        """Return the layer as it is to be called, the stream that enters it, and projections in place of its own."""
        index, projections, entering_BTW = layer.index, list[Projection](), hidden_BTW
        device = layer.decoder.devices[index]
        if self.hiding:
            self.cache.hide(index, self._of(self.hiding, left, left.flag_BT.device))
        layer = layer.without(self.cache.hidden.get(index))
        if self.copying:
            self.cache.rewrite = partial(self._copied, self._of(self.copying, left, device))
        for state in self.saying:
            maps = self.maps if state.maps else None
            if maps and index < maps.first_layer:
                continue
            if (tokens := self._tokens(state, index, left, device)).are_none:
                continue
            exited = self._exited(tokens, hidden_BTW, left, device)
            if state.leaves is Leaves.KEYS or (maps and maps.form == KEYS):
                making = _Making(state, tokens, exited, layer, self.checked.are_due(f"mode {state.name}", device))
                before = projections or [_own, _own]
                projections = [partial(making.project, part, each) for part, each in enumerate(before)]
                continue
            if entering_BTW is hidden_BTW:
                entering_BTW = hidden_BTW.to(device, copy=True)
            checks = self.checked.are_due(f"mode {state.name}", device)
            tokens.put(entering_BTW.view(-1, entering_BTW.shape[-1]), state.left(exited, Deeper(index), checks))
        return layer, entering_BTW, projections

    def _tokens(self, state: State, layer: int, left: Left, device: torch.device) -> Chosen:
        """The tokens, among all of a pass, that have left in a state, and of which it says what a layer gets."""
        flag_D = self._of((state.name,), left, device).flatten()
        if state.maps:
            flag_D = flag_D & (self._exit_layers(left, device) + 1 < layer)
        return Chosen.of(flag_D)

    def _exit_layers(self, left: Left, device: torch.device) -> Tensor:
        """The exit layers of all tokens, (D,)."""
        return left.find(("layers", device), lambda: self.student.layer_X[left.exit_BT].flatten().to(device))

    def _exited(self, tokens: Chosen, hidden_BTW: Tensor, left: Left, device: torch.device) -> Exited:
        """What exits left of some tokens, on a device; `hidden_BTW` are the streams at the exits of those that left."""
        kept = {name: each.flatten(0, 1).to(device)[tokens.rows] for name, each in left.kept.items()}
        stream_NW = hidden_BTW.flatten(0, 1).to(device)[tokens.rows]
        return Exited(self._exit_layers(left, device)[tokens.rows], stream_NW, kept, self.maps)

    def _of(self, states: tuple[str, ...], left: Left, device: torch.device) -> Tensor:
        """Flag the tokens that have left in one of these states: (B, T) bool, on a device."""

        def find() -> Tensor:
            if self.is_everywhere and len(states) == len(self.states):
                return left.flag_BT.to(device)
            of_B = torch.stack([self.state_B == self.states[name] for name in states]).any(0)
            return (left.flag_BT & of_B[:, None]).to(device)

        return left.find((states, device), find)

    def _copied(self, copied_BT: Tensor, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, (B, H, T, D), with those of the layer before where `copied_BT` is True."""
        before, flag = self.cache.latest(layer - 1, keys.shape[2]), copied_BT[:, None, :, None]
        key, value = (
            torch.where(flag, old.to(new.device), new) for old, new in zip(before, (keys, values), strict=True)
        )
        return key, value


class _Making:
    """A layer's keys and values before norms and angles, as a state says of tokens that have left; it is asked once."""

    def __init__(self, state: State, tokens: Chosen, exited: Exited, layer: Layer, checks_numbers: bool):
        self.state, self.tokens, self.exited, self.layer = state, tokens, exited, layer
        self.checks_numbers = checks_numbers
        self.said: Sequence[Tensor] = ()

    def project(self, part: int, before: Projection, own: Callable[[Tensor], Tensor], given_BTD: Tensor) -> Tensor:
        """Return keys (part 0) or values (part 1), which `before` makes of other tokens with the layer's `own`."""
        if not self.said:
            key, value = self.layer.decoder.for_keys[self.layer.index].own_projections
            deeper = Deeper(self.layer.index, key, value, given_BTD.flatten(0, 1)[self.tokens.rows])
            self.said = self.state.left(self.exited, deeper, self.checks_numbers)
        said_NH = self.said[part]
        if self.tokens.are_all:  # of none, the own are needed
            return said_NH.reshape(*given_BTD.shape[:2], -1)
        made_BTH = before(own, given_BTD).clone()
        self.tokens.put(made_BTH.view(-1, made_BTH.shape[-1]), said_NH)
        return made_BTH


def _own(own: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """A projection that is a layer's own."""
    return own(given)


@dataclass(frozen=True)
class DeferredTokens:
    """Tokens of successive columns that went through `depth` layers: the hidden state that enters the next one.

    Their ids are kept, since a model may give its layers arguments that follow from them (as Gemma 4 does).
    """

    depth: int
    hidden_BNW: Tensor
    token_BN: Tensor
    position_BN: Tensor
    left: Left

    @property
    def n_tokens(self) -> int:
        """Number of tokens of each row."""
        return self.token_BN.shape[1]

    @classmethod
    def joined(cls, parts: Sequence["DeferredTokens"]) -> "DeferredTokens":
        """Join parts of one depth, in the order of their columns; a single one is not copied."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            parts[0].depth,
            torch.cat([part.hidden_BNW for part in parts], 1),
            torch.cat([part.token_BN for part in parts], 1),
            torch.cat([part.position_BN for part in parts], 1),
            Left.joined([part.left for part in parts]),
        )

    def of(self, rows: Tensor) -> "DeferredTokens":
        """Take these rows alone, in this order."""
        hidden_BNW, token_BN, position_BN = self.hidden_BNW[rows], self.token_BN[rows], self.position_BN[rows]
        return DeferredTokens(self.depth, hidden_BNW, token_BN, position_BN, self.left.of(rows))


class Passing:
    """A visit that may stop before a layer; a stopped visit runs no layer.

    It stops where tokens are deferred from that layer on, until they have joined it, and where all its tokens have left
    and the layers are to be deferred for them. `own` are the pass's tokens, `before` those that have joined them, and
    `left` is of both. Where it has stopped, `held_BTW` is the stream that enters layer `depth`.
    """

    all_left = False

    def __init__(self, leaving: Leaving, own: Left):
        self.leaving, self.own = leaving, own
        self.before: Left | None = None
        self.left = own
        self.held_BTW: Tensor | None = None
        self.depth = 0

    def leave_as(self, own: Left) -> None:
        """Note which of the pass's own tokens have left."""
        self.own = own
        self.left = Left.joined([self.before, own]) if self.before else own

    def __call__(self, layer: Layer, hidden_BTW: Tensor) -> Tensor:
        if self.held_BTW is None:
            leaving, student = self.leaving, self.leaving.student
            # Behind deferred tokens, which other rows may have left behind, all are deferred: they run in one piece.
            defers = not leaving.all_alter or student.deferred
            stops = defers if self.all_left else student.defers(layer.index)
            if not stops:
                return self.visit(layer, hidden_BTW)
            self.depth, self.held_BTW = layer.index, hidden_BTW
        return hidden_BTW

    def visit(self, layer: Layer, hidden_BTW: Tensor) -> Tensor:
        """Run a layer, which no token leaves after; return what the next one gets, (B, T, W)."""
        return self.leaving.run(layer, hidden_BTW, self.left)

    def join(self, deferred: DeferredTokens) -> None:
        """Put deferred tokens before the others."""
        self.before = Left.joined([deferred.left, self.before]) if self.before else deferred.left
        self.leave_as(self.own)


class Student:
    """A decoder, the keys and values of rows, and the deferred tokens.

    `layer_X` are the exitable layers and the final one. `deferred` are in the order of their columns, and so those of
    most depth first. Where more than `most_tokens` would run together, they run in blocks, after each of which
    `tell_block` is called.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, exitable_layers: Sequence[int]):
        self.decoder, self.cache, self.exitable_layers = decoder, cache, exitable_layers
        self.deferred, self.most_tokens = list[DeferredTokens](), float(DEFERRED_TOKENS)
        self.tell_block: Callable[[], None] = lambda: None
        [self.layer_X] = to_device([np.array([*exitable_layers, decoder.n_layers - 1])], decoder.device)

    def defers(self, layer: int) -> bool:
        """Return True if tokens are deferred from this layer on."""
        return bool(self.deferred) and self.deferred[-1].depth == layer

    def run(self, visit: Passing, inputs: Inputs, first: int = 0, entering_BTW: Tensor | None = None) -> Tensor:
        """Take all rows' tokens through the layers; return what goes into the head after the final one, (B, T, H).

        Where the pass goes as deep as a block of tokens is deferred, these come before its own, and are the first of T.
        """
        ready_BTH = self.decoder.run(visit, inputs, self.cache, first, entering_BTW)
        while visit.held_BTW is not None and not visit.all_left:
            entering_BTW, visit.held_BTW = visit.held_BTW, None
            pieces = self._pop(visit.depth)
            if sum(piece.token_BN.numel() for piece in pieces) > self.most_tokens:
                before = replace(inputs, seen_BC=inputs.seen_BC[:, : -inputs.token_BT.shape[1]])
                self._run_blocks(visit.leaving, pieces, before, self._next_stop(visit.depth))
            else:
                deferred = DeferredTokens.joined(pieces)
                visit.join(deferred)
                entering_BTW, inputs = torch.cat([deferred.hidden_BNW, entering_BTW], 1), longer(deferred, inputs)
            ready_BTH = self.decoder.run(visit, inputs, self.cache, visit.depth, entering_BTW)
        if visit.held_BTW is not None:
            self._defer(DeferredTokens(visit.depth, visit.held_BTW, inputs.token_BT, inputs.position_BT, visit.left))
        return ready_BTH

    def _pop(self, depth: int) -> deque[DeferredTokens]:
        """Remove the tokens that are deferred from a layer on, and return them."""
        pieces = deque(piece for piece in self.deferred if piece.depth == depth)
        self.deferred = [piece for piece in self.deferred if piece.depth != depth]
        return pieces

    def _defer(self, piece: DeferredTokens) -> None:
        """Add tokens behind the others that are deferred."""
        if self.defers(piece.depth):
            n_tokens = self.deferred[-1].n_tokens + piece.n_tokens
            if n_tokens <= PIECE_TOKENS and n_tokens * len(piece.token_BN) <= self.most_tokens:
                piece = DeferredTokens.joined([self.deferred.pop(), piece])
        self.deferred.append(piece)

    def _next_stop(self, depth: int) -> int:
        """Return the layer that a pass at this depth is sure to reach: then all may leave, or others may join it."""
        stops = [layer + 1 for layer in self.exitable_layers if layer >= depth]
        stops += [self.deferred[-1].depth] if self.deferred else []
        return min(stops, default=self.decoder.n_layers)

    def _run_blocks(self, leaving: Leaving, pieces: deque[DeferredTokens], inputs: Inputs, stop: int) -> None:
        """Run deferred tokens in blocks up to layer `stop`, and defer them from there.

        They end with the columns of `inputs`. Pieces are removed as they run, so that they are freed.
        """
        column = inputs.seen_BC.shape[1] - sum(piece.n_tokens for piece in pieces)
        while pieces:
            block = DeferredTokens.joined(self._next_block(pieces))
            column += block.n_tokens
            seen_BC = inputs.seen_BC[:, :column]
            inputs_of_block = Inputs(block.token_BN, block.position_BN, seen_BC, inputs.first_column)
            self._run_block(leaving, block, inputs_of_block, stop)
            self.tell_block()

    def _run_block(self, leaving: Leaving, block: DeferredTokens, inputs: Inputs, stop: int) -> None:
        """Run deferred tokens together up to layer `stop`, and defer them from there, if there is such a layer."""

        def visit(layer: Layer, hidden_BNW: Tensor) -> Tensor:
            if layer.index < stop:
                return leaving.run(layer, hidden_BNW, block.left)
            if layer.index == stop:
                self.deferred.append(replace(block, depth=stop, hidden_BNW=hidden_BNW))
            return hidden_BNW

        self.decoder.run(visit, inputs, self.cache, block.depth, block.hidden_BNW)

    def _next_block(self, waiting: deque[DeferredTokens]) -> list[DeferredTokens]:
        """Take as many pieces of one depth as may run together, and one at least."""
        taken = [waiting.popleft()]
        n_tokens = taken[0].token_BN.numel()
        while waiting and waiting[0].depth == taken[0].depth:
            n_tokens += waiting[0].token_BN.numel()
            if n_tokens > self.most_tokens:
                break
            taken.append(waiting.popleft())
        return taken

    def keep(self, rows: Tensor) -> None:
        """Keep the deferred tokens of these rows, in this order, and drop the rest."""
        self.deferred = [piece.of(rows) for piece in self.deferred]

    def settle(self, leaving: Leaving, latest: Inputs) -> None:
        """Run all deferred tokens, before rows come that have none; they end with the columns of `latest`."""
        pieces, self.deferred = deque(self.deferred), []
        self._run_blocks(leaving, pieces, latest, self.decoder.n_layers)


def longer(deferred: DeferredTokens, inputs: Inputs) -> Inputs:
    """Return inputs with deferred tokens before the others."""
    token_BT = torch.cat([deferred.token_BN, inputs.token_BT], 1)
    return replace(inputs, token_BT=token_BT, position_BT=torch.cat([deferred.position_BN, inputs.position_BT], 1))
