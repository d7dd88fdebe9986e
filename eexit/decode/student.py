"""The student: the decoder that exits leave out layers of, its keys and values, and what it still owes.

All rows go through a layer together. Past a token's exit, the mode says what the next layer gets, and what is left for
later tokens. Where all tokens have left, layers are left out: modes that alter the state have keys and values written
alone, and for `unfrozen`, which keeps the full-depth state, the rest of the layers is owed for all rows of the step. It
is run together with the next step that goes as deep (deferred computation, as in EE-LLM, Chen et al. 2023).

Shapes: B rows, T tokens of a pass, N owed tokens, D tokens of all rows, W width of the residual stream, X exitable
layers and then the final one.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from eexit.cpu.chosen import Chosen
from eexit.decode.rows import NONE, Rows, to_device
from eexit.method.state_maps import KEYS, StateMaps
from eexit.method.states import STATES, Deeper, Exited, Leaves, State, alters
from eexit.model.cache import KVCache
from eexit.model.keys_alone import Projection
from eexit.model.layers import Decoder, Inputs, Layer


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

    def beside(self, own: "Left") -> "Left":
        """Put these tokens before others along T."""
        flag_BT, exit_BT = torch.cat([self.flag_BT, own.flag_BT], 1), torch.cat([self.exit_BT, own.exit_BT], 1)
        kept = {name: torch.cat([each, own.kept[name]], 1) for name, each in self.kept.items()}
        return Left(flag_BT, exit_BT, self.is_any or own.is_any, kept)


class Leaving:
    """What the tokens of a student's rows leave in layers past their exits, by the rows' states, numbered in `states`.

    `state_B` are the numbers of the rows' states. `is_everywhere` says that every row has one, which the host knows.
    """

    def __init__(
        self, student: "Student", states: Mapping[str, int], state_B: Tensor, is_everywhere: bool,
        maps: StateMaps | None = None,
    ):  # fmt: skip
        self.student, self.cache, self.maps = student, student.cache, maps
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
        return cls(student, states, rows.asked.state_B[:n_rows], NONE not in there, rows.decoding.state_maps)

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
                making = _Making(state, tokens, exited, layer)
                before = projections or [_own, _own]
                projections = [partial(making.project, part, each) for part, each in enumerate(before)]
                continue
            if entering_BTW is hidden_BTW:
                entering_BTW = hidden_BTW.to(device, copy=True)
            tokens.put(entering_BTW.view(-1, entering_BTW.shape[-1]), state.left(exited, Deeper(index)))
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

    def __init__(self, state: State, tokens: Chosen, exited: Exited, layer: Layer):
        self.state, self.tokens, self.exited, self.layer = state, tokens, exited, layer
        self.said: Sequence[Tensor] = ()

    def project(self, part: int, before: Projection, own: Callable[[Tensor], Tensor], given_BTD: Tensor) -> Tensor:
        """Return keys (part 0) or values (part 1), which `before` makes of other tokens with the layer's `own`."""
        if not self.said:
            key, value = self.layer.decoder.for_keys[self.layer.index].own_projections
            deeper = Deeper(self.layer.index, key, value, given_BTD.flatten(0, 1)[self.tokens.rows])
            self.said = self.state.left(self.exited, deeper)
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
class Owed:
    """Deferred tokens of successive steps that went through `depth` layers: the hidden state that enters the next one.

    Their ids are kept, since a model may give its layers arguments that follow from them (as Gemma 4 does).
    """

    depth: int
    hidden_BNW: Tensor
    token_BN: Tensor
    position_BN: Tensor
    left: Left

    def of(self, rows: Tensor) -> "Owed":
        """Take these rows alone, in this order."""
        parts = (part[rows] for part in (self.hidden_BNW, self.token_BN, self.position_BN))
        return Owed(self.depth, *parts, self.left.of(rows))


class Passing:
    """A visit that may stop before a layer; a stopped visit runs no layer.

    It stops where tokens are owed from that layer on, until they have joined it, and where all its tokens have left and
    the layers are to be owed for them. `own` are the pass's tokens, `before` those that have joined them, and `left` is
    of both. Where it has stopped, `held_BTW` is the stream that enters layer `depth`.
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
        self.left = self.before.beside(own) if self.before else own

    def __call__(self, layer: Layer, hidden_BTW: Tensor) -> Tensor:
        if self.held_BTW is None:
            stops = not self.leaving.all_alter if self.all_left else self.leaving.student.owes(layer.index)
            if not stops:
                return self.visit(layer, hidden_BTW)
            self.depth, self.held_BTW = layer.index, hidden_BTW
        return hidden_BTW

    def visit(self, layer: Layer, hidden_BTW: Tensor) -> Tensor:
        """Run a layer, which no token leaves after; return what the next one gets, (B, T, W)."""
        return self.leaving.run(layer, hidden_BTW, self.left)

    def join(self, owed: Owed) -> None:
        """Put owed tokens before the others, and go on."""
        self.before = owed.left.beside(self.before) if self.before else owed.left
        self.leave_as(self.own)
        self.held_BTW = None


class Student:
    """A decoder, the keys and values of rows, and the tokens that are owed, those of most depth first.

    `layer_X` are the exitable layers and the final one.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, exitable_layers: Sequence[int]):
        self.decoder, self.cache, self.owed = decoder, cache, list[Owed]()
        [self.layer_X] = to_device([np.array([*exitable_layers, decoder.n_layers - 1])], decoder.device)

    def owes(self, layer: int) -> bool:
        """Whether tokens are owed from this layer on."""
        return bool(self.owed) and self.owed[-1].depth == layer

    def run(self, visit: Passing, inputs: Inputs, first: int = 0, entering_BTW: Tensor | None = None) -> Tensor:
        """Take all rows' tokens through the layers; return what goes into the head after the final one, (B, T, H).

        Where the pass goes as deep as tokens are owed, these come before its own, and are the first of T.
        """
        ready_BTH = self.decoder.run(visit, inputs, self.cache, first, entering_BTW)
        while visit.held_BTW is not None and not visit.all_left:
            owed = self.owed.pop()
            entering_BTW = torch.cat([owed.hidden_BNW, visit.held_BTW], 1)
            inputs = longer(owed, inputs)
            visit.join(owed)
            ready_BTH = self.decoder.run(visit, inputs, self.cache, owed.depth, entering_BTW)
        if visit.held_BTW is not None:
            self._owe(Owed(visit.depth, visit.held_BTW, inputs.token_BT, inputs.position_BT, visit.left))
        return ready_BTH

    def _owe(self, owed: Owed) -> None:
        """Add to what is owed, as one with the tokens of earlier steps that are owed from the same layer on."""
        if self.owes(owed.depth):
            before = self.owed.pop()
            names = ("hidden_BNW", "token_BN", "position_BN")
            parts = (torch.cat([getattr(before, name), getattr(owed, name)], 1) for name in names)
            owed = Owed(owed.depth, *parts, before.left.beside(owed.left))
        self.owed.append(owed)

    def keep(self, rows: Tensor) -> None:
        """Keep what these rows owe, in this order, and drop the rest."""
        self.owed = [owed.of(rows) for owed in self.owed]

    def settle(self, leaving: Leaving, seen_BC: Tensor) -> None:
        """Run what is owed, before rows come that owe nothing; `seen_BC` are the columns that hold tokens of rows."""
        if self.owed:
            owed = self.owed.pop()
            inputs = Inputs(owed.token_BN, owed.position_BN, seen_BC)
            self.run(Passing(leaving, owed.left), inputs, owed.depth, owed.hidden_BNW)


def longer(owed: Owed, inputs: Inputs) -> Inputs:
    """Return inputs with deferred tokens before the others."""
    token_BT = torch.cat([owed.token_BN, inputs.token_BT], 1)
    return replace(inputs, token_BT=token_BT, position_BT=torch.cat([owed.position_BN, inputs.position_BT], 1))
