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

import torch
from torch import Tensor

from eexit.decode.reading.chosen import Chosen
from eexit.method.state_maps import KEYS, StateMaps
from eexit.method.states import STATES, Deeper, Exited, Leaves, alters
from eexit.model.cache import KVCache
from eexit.model.keys_alone import Projection
from eexit.model.layers import Decoder, Inputs, Layer


@dataclass(frozen=True)
class Left:
    """Which of a pass's tokens have left, and where: `exit_BT` are indices into X, the final one for others.

    `kept` are streams of all tokens, (B, T, W), that own states look at, by the names of `Exited`.
    """

    flag_BT: Tensor
    exit_BT: Tensor
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    found: dict[Hashable, Tensor] = field(default_factory=dict)  # what layers have asked of these tokens so far

    def find(self, what: Hashable, find: Callable[[], Tensor]) -> Tensor:
        """Return what `find` makes of these flags and exits, found once for all layers and kept by the name `what`."""
        if what not in self.found:
            self.found[what] = find()
        return self.found[what]

    def of(self, rows: Tensor) -> "Left":
        """Take these rows alone, in this order."""
        return Left(self.flag_BT[rows], self.exit_BT[rows], {name: each[rows] for name, each in self.kept.items()})

    def beside(self, own: "Left") -> "Left":
        """Put these tokens before others along T."""
        kept = {name: torch.cat([each, own.kept[name]], 1) for name, each in self.kept.items()}
        return Left(torch.cat([self.flag_BT, own.flag_BT], 1), torch.cat([self.exit_BT, own.exit_BT], 1), kept)


class Leaving:
    """What the tokens of rows leave in layers past their exits, by the states of the rows, numbered in `states`.

    `state_B` are the numbers of the rows' states. `is_everywhere` says that every row has one, which the host knows.
    """

    def __init__(
        self, cache: KVCache, states: Mapping[str, int], state_B: Tensor, is_everywhere: bool,
        exits: Sequence[int], maps: StateMaps | None = None,
    ):  # fmt: skip
        self.cache, self.exits, self.maps = cache, exits, maps
        self.states, self.state_B, self.is_everywhere = states, state_B, is_everywhere
        self.altering = tuple(name for name in states if alters(STATES[name]))
        self.needs = {need for name in states for need in STATES[name].needs}  # streams that `Left.kept` has

    @property
    def all_alter(self) -> bool:
        """Whether every row's exits alter what later tokens see."""
        return self.is_everywhere and len(self.altering) == len(self.states)

    def run(self, layer: Layer, hidden_BTW: Tensor, left: Left) -> Tensor:
        """Run a layer for all tokens; return what the next layer gets, (B, T, W).

        For tokens that have left in a state that alters what later tokens see, that is the stream at their exits.
        """
        if not self.altering:
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
        elif self._that_leave(Leaves.COPY):
            self.cache.copy_layer(layer.index - 1, layer.index, hidden_BTW.shape[1])
        self.cache.rewrite = None

    def _prepare(self, layer: Layer, hidden_BTW: Tensor, left: Left) -> tuple[Layer, Tensor, Sequence[Projection]]:
        """Return the layer as it is to be called, the stream that enters it, and projections in place of its own."""
        index, projections = layer.index, list[Projection]()
        if hiding := self._that_leave(Leaves.NOTHING):
            self.cache.hide(index, self._of(hiding, left))
        layer = layer.without(self.cache.hidden.get(index))
        device = layer.decoder.devices[index]
        if copying := self._that_leave(Leaves.COPY):
            self.cache.rewrite = partial(self._copied, self._of(copying, left, device))
        if mapping := self._that_leave(Leaves.MAPS):
            assert self.maps, "a state that maps needs state maps"
            mapped = self._mapped(mapping, index, left, device)
            if mapped and self.maps.form == KEYS:
                projections = [partial(self._projected, mapped, index, part) for part in range(2)]
            elif mapped:
                hidden_BTW = self._entering(mapped, index, hidden_BTW.to(device))
        entering_BTW = hidden_BTW
        for name in self._that_leave(Leaves.STREAM):
            if not STATES[name].keeps_stream and not (tokens := self._tokens(name, left, device)).are_none:
                if entering_BTW is hidden_BTW:
                    entering_BTW = hidden_BTW.to(device, copy=True)
                said_NW = STATES[name].left(self._exited(tokens, hidden_BTW, left, device), Deeper(index))
                tokens.put(entering_BTW.view(-1, entering_BTW.shape[-1]), said_NW)
        for name in self._that_leave(Leaves.KEYS):
            tokens, said = self._tokens(name, left, device), list[Sequence[Tensor]]()
            exited = self._exited(tokens, hidden_BTW, left, device)
            making = [partial(self._made, name, tokens, exited, layer, part, said) for part in range(2)]
            before = projections or [_own, _own]
            projections = [partial(_after, one, other) for one, other in zip(making, before, strict=True)]
        return layer, entering_BTW, projections

    def _tokens(self, name: str, left: Left, device: torch.device) -> Chosen:
        """The tokens that have left in a state, among all of a pass."""
        return Chosen.of(self._of((name,), left, device).flatten())

    def _exited(self, tokens: Chosen, hidden_BTW: Tensor, left: Left, device: torch.device) -> Exited:
        """What exits left of some tokens, on a device; `hidden_BTW` are the streams at the exits of those that left."""

        def layers() -> Tensor:
            exits = torch.tensor([*self.exits, -1], device=left.exit_BT.device)
            return exits[left.exit_BT].flatten().to(device)

        kept = {name: each.flatten(0, 1).to(device)[tokens.rows] for name, each in left.kept.items()}
        stream_NW = hidden_BTW.flatten(0, 1).to(device)[tokens.rows]
        return Exited(left.find(("layers", device), layers)[tokens.rows], stream_NW, kept)

    def _made(
        self, name: str, tokens: Chosen, exited: Exited, layer: Layer, part: int, said: list[Sequence[Tensor]],
        own: Callable[[Tensor], Tensor], given_BTD: Tensor,
    ) -> Tensor:  # fmt: skip
        """Return keys (part 0) or values (part 1) before norms and angles, as a state says of tokens that have left.

        It is asked once for both, and `said` is its answer.
        """
        made_BTH = own(given_BTD)
        if tokens.are_none:
            return made_BTH
        if not said:
            key, value = layer.decoder.for_keys[layer.index].own_projections
            given_ND = given_BTD.flatten(0, 1)[tokens.rows]
            said.append(STATES[name].left(exited, Deeper(layer.index, key, value, given_ND)))
        made_BTH = made_BTH.clone()
        tokens.put(made_BTH.view(-1, made_BTH.shape[-1]), said[0][part])
        return made_BTH

    def _that_leave(self, what: Leaves) -> tuple[str, ...]:
        """The rows' states that leave this in layers past an exit."""
        return tuple(name for name in self.states if STATES[name].leaves is what)

    def _of(self, states: tuple[str, ...], left: Left, device: torch.device | None = None) -> Tensor:
        """Flag the tokens that have left in one of these states: (B, T) bool, on a device."""

        def find() -> Tensor:
            if self.is_everywhere and len(states) == len(self.states):
                return left.flag_BT
            of_B = torch.stack([self.state_B == self.states[name] for name in states]).any(0)
            return left.flag_BT & of_B[:, None]

        def there() -> Tensor:
            assert device
            return left.find(states, find).to(device)

        return left.find(states, find) if device is None else left.find((states, device), there)

    def _copied(self, copied_BT: Tensor, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, (B, H, T, D), with those of the layer before where `copied_BT` is True."""
        before, flag = self.cache.latest(layer - 1, keys.shape[2]), copied_BT[:, None, :, None]
        key, value = (
            torch.where(flag, old.to(new.device), new) for old, new in zip(before, (keys, values), strict=True)
        )
        return key, value

    def _mapped(
        self, states: tuple[str, ...], layer: int, left: Left, device: torch.device
    ) -> list[tuple[int, Tensor]]:
        """Flag the tokens that state maps are for in a layer: pairs of their exit layer and (D,) bool."""

        def leave_at(rank: int) -> Tensor:
            return (self._of(states, left) & (left.exit_BT == rank)).flatten().to(device)

        ranks = [rank for rank, exit_layer in enumerate(self.exits) if exit_layer + 1 < layer]
        return [(self.exits[rank], left.find((states, device, rank), partial(leave_at, rank))) for rank in ranks]

    def _entering(self, mapped: Sequence[tuple[int, Tensor]], layer: int, hidden_BTW: Tensor) -> Tensor:
        """Return the stream that enters a layer, (B, T, W), mapped for tokens that have left."""
        assert self.maps
        entering_DW = hidden_BTW.flatten(0, 1).clone()
        for exit_layer, flag_D in mapped:
            if not (tokens := Chosen.of(flag_D)).are_none:
                [change] = self.maps.of_layers[exit_layer, layer]
                own_NW = entering_DW[tokens.rows]
                tokens.put(entering_DW, own_NW + change(own_NW))
        return entering_DW.reshape(hidden_BTW.shape)

    def _projected(
        self, mapped: Sequence[tuple[int, Tensor]], layer: int, part: int, own: Callable[[Tensor], Tensor],
        given_BTD: Tensor,
    ) -> Tensor:  # fmt: skip
        """Return keys (part 0) or values (part 1) before norms and angles, by maps for tokens that have left."""
        assert self.maps
        given_DD, maps = given_BTD.flatten(0, 1), self.maps.of_layers
        if Chosen.of(~torch.stack([flag_D for _, flag_D in mapped]).any(0)).are_none:  # of none, the own are needed
            made_DH = given_DD.new_empty(len(given_DD), maps[mapped[0][0], layer][part].weight.shape[1])
        else:
            made_DH = own(given_BTD).flatten(0, 1)
        for exit_layer, flag_D in mapped:
            if not (tokens := Chosen.of(flag_D)).are_none:
                tokens.put(made_DH, maps[exit_layer, layer][part](given_DD[tokens.rows]))
        return made_DH.reshape(*given_BTD.shape[:2], -1)


@dataclass(frozen=True)
class Owed:
    """Tokens of successive steps that went through `depth` layers: the stream that enters the next, and positions."""

    depth: int
    hidden_BNW: Tensor
    position_BN: Tensor
    left: Left

    def of(self, rows: Tensor) -> "Owed":
        """Take these rows alone, in this order."""
        return Owed(self.depth, self.hidden_BNW[rows], self.position_BN[rows], self.left.of(rows))


class Passing:
    """A visit that stops at a layer that tokens are owed for, until they have joined; a stopped visit runs no layer.

    `own` are the pass's tokens, `before` those that have joined them, and `left` is of both. A visit has stopped where
    `held_BTW` is the stream that enters the next layer: layer `waits_at` if tokens are owed for it, else layer `depth`,
    before which all tokens have left.
    """

    all_left = False

    def __init__(self, student: "Student", leaving: Leaving, own: Left):
        self.student, self.leaving, self.own = student, leaving, own
        self.before: Left | None = None
        self.left = own
        self.waits_at: int | None = None
        self.held_BTW: Tensor | None = None
        self.depth = 0

    def leave_as(self, own: Left) -> None:
        """Note which of the pass's own tokens have left."""
        self.own = own
        self.left = self.before.beside(own) if self.before else own

    def __call__(self, layer: Layer, hidden_BTW: Tensor) -> Tensor:
        if self.held_BTW is not None:
            return hidden_BTW
        if not self.all_left and self.student.owes(layer.index):
            self.waits_at, self.held_BTW = layer.index, hidden_BTW
            return hidden_BTW
        return self.visit(layer, hidden_BTW)

    def visit(self, layer: Layer, hidden_BTW: Tensor) -> Tensor:
        """Run a layer, which no token leaves after; return what the next one gets, (B, T, W)."""
        return self.leaving.run(layer, hidden_BTW, self.left)

    def join(self, owed: Owed) -> None:
        """Put owed tokens before the others, and go on."""
        self.before = owed.left.beside(self.before) if self.before else owed.left
        self.left = self.before.beside(self.own)
        self.waits_at, self.held_BTW = None, None


class Student:
    """A decoder, the keys and values of rows, and the tokens that are owed, those of most depth first."""

    def __init__(self, decoder: Decoder, cache: KVCache):
        self.decoder, self.cache, self.owed = decoder, cache, list[Owed]()

    def owes(self, layer: int) -> bool:
        """Whether tokens are owed from this layer on."""
        return bool(self.owed) and self.owed[-1].depth == layer

    def run(self, visit: Passing, inputs: Inputs, first: int = 0, entering_BTW: Tensor | None = None) -> Tensor:
        """Take all rows' tokens through the layers; return what goes into the head after the final one, (B, T, H).

        Where the pass goes as deep as tokens are owed, these come before its own, and are the first of T.
        """
        while True:
            ready_BTH = self.decoder.run(visit, inputs, self.cache, first, entering_BTW)
            if visit.held_BTW is None:
                return ready_BTH
            if visit.waits_at is None:  # all have left
                self._owe(Owed(visit.depth, visit.held_BTW, inputs.position_BT, visit.left))
                return ready_BTH
            owed, first = self.owed.pop(), visit.waits_at
            entering_BTW = torch.cat([owed.hidden_BNW, visit.held_BTW], 1)
            inputs = longer(inputs, owed.position_BN)
            visit.join(owed)

    def _owe(self, owed: Owed) -> None:
        """Add to what is owed, as one with the tokens of earlier steps that are owed from the same layer on."""
        if self.owes(owed.depth):
            before = self.owed.pop()
            hidden_BNW = torch.cat([before.hidden_BNW, owed.hidden_BNW], 1)
            position_BN = torch.cat([before.position_BN, owed.position_BN], 1)
            owed = Owed(owed.depth, hidden_BNW, position_BN, before.left.beside(owed.left))
        self.owed.append(owed)

    def keep(self, rows: Tensor) -> None:
        """Keep what these rows owe, in this order, and drop the rest."""
        self.owed = [owed.of(rows) for owed in self.owed]

    def settle(self, leaving: Leaving, latest: Inputs) -> None:
        """Run what is owed, before rows come that owe nothing; `latest` are the rows' latest tokens in the cache."""
        if self.owed:
            owed = self.owed.pop()
            inputs = longer(latest, owed.position_BN[:, :-1])
            self.run(Passing(self, leaving, owed.left), inputs, owed.depth, owed.hidden_BNW)


def _own(own: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """A projection that is a layer's own."""
    return own(given)


def _after(project: Projection, before: Projection, own: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """A projection in whose place, for some tokens, is another."""
    return project(partial(before, own), given)


def longer(inputs: Inputs, position_BN: Tensor) -> Inputs:
    """Return inputs with tokens at these positions before the others; their ids are 0, since no embedding is used."""
    token_BT = torch.nn.functional.pad(inputs.token_BT, (position_BN.shape[1], 0))
    return replace(inputs, token_BT=token_BT, position_BT=torch.cat([position_BN, inputs.position_BT], 1))
