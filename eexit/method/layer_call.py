"""One layer in a pass, and what modes have it do for tokens that have exited.

Shapes: B sequences, T tokens of each in the pass, N exited tokens, D width of a hidden state, F width of the input
of a layer's projections, H width of its keys or values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from eexit.cpu.selection import Selection
from eexit.method.kv_maps import KVMaps
from eexit.model.kv_projection import Projection
from eexit.model.layers import Layer

# Of a layer's own projections to keys and to values, and their input (N, F): keys and values, (N, H) each.
MakeKeys = Callable[[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class ExitContext:
    """What a mode's function gets of the N tokens that have exited."""

    layer: Tensor  # (N,): the exit layer
    hidden: Tensor  # (N, D): the hidden state after it
    kept: dict[str, Tensor] = field(default_factory=dict)

    @property
    def hidden_in(self) -> Tensor:
        """The hidden state before the exit layer, (N, D), for modes that need it."""
        return self._kept("hidden_in")

    @property
    def embedding(self) -> Tensor:
        """The hidden state before layer 0, (N, D), for modes that need it."""
        return self._kept("embedding")

    def _kept(self, name: str) -> Tensor:
        if name not in self.kept:
            raise AttributeError(f'it looks at {name}: say needs=("{name}",)')
        return self.kept[name]


@dataclass(frozen=True)
class ExitedTokens:
    """The tokens of a pass that have exited, of sequences that share a mode."""

    flag_BT: Tensor
    tokens: Selection  # of all tokens of the pass
    exit_layer_BT: Tensor  # of exited tokens
    kept: Mapping[str, Tensor]  # hidden states of all tokens, (B, T, D), by their names in `ExitContext`
    kv_maps: KVMaps | None
    checks_numbers: bool = True  # of custom modes

    @classmethod
    def from_flag(
        cls, flag_BT: Tensor, exit_layer_BT: Tensor, kept: Mapping[str, Tensor], kv_maps: KVMaps | None,
        checks_numbers: bool = True,
    ) -> "ExitedTokens":  # fmt: skip
        """Take the tokens with this flag."""
        tokens = Selection.from_flag(flag_BT.flatten())
        return cls(flag_BT, tokens, exit_layer_BT, kept, kv_maps, checks_numbers)

    def has_tokens(self) -> bool:
        """Return False if there is no such token, as far as the host knows."""
        return self.tokens.has_tokens()

    def before_layer(self, layer: int) -> "ExitedTokens":
        """Return those that exited before a layer."""
        exit_layer_N = self.exit_layer_BT.flatten()[self.tokens.index]
        return replace(self, tokens=self.tokens.narrow(exit_layer_N < layer)[0])

    def given(self, hidden_BTD: Tensor) -> ExitContext:
        """Return what a mode's function gets; `hidden_BTD` are hidden states at exits, on the layer's device."""

        def chosen(part_BT: Tensor) -> Tensor:
            return part_BT.flatten(0, 1)[self.tokens.index].to(hidden_BTD.device)

        kept = {name: chosen(part) for name, part in self.kept.items()}
        return ExitContext(chosen(self.exit_layer_BT), chosen(hidden_BTD), kept)


class LayerCall:
    """A layer, the hidden states that enter it, and what modes have it do for exited tokens."""

    def __init__(self, layer: Layer, hidden_BTD: Tensor):
        self.layer, self.cache, self.index = layer, layer.cache, layer.index
        self.device = layer.decoder.devices[layer.index]
        self.hidden_before = self.hidden_BTD = hidden_BTD.to(self.device)
        self.projections: Sequence[Projection] = ()  # in place of the layer's own to keys and to values
        self.writes_keys = False
        self.copied_BT: Tensor | None = None
        self.hidden_columns_BT: Tensor | None = None

    # ---- what modes say

    def write(self) -> None:
        """Have the layer make keys and values of the hidden states that enter it."""
        self.writes_keys = True

    def replace_hidden(self, tokens: Selection, hidden_ND: Tensor) -> None:
        """Have the layer make keys and values of other hidden states."""
        self.writes_keys = True
        if self.hidden_BTD is self.hidden_before:
            self.hidden_BTD = self.hidden_before.clone()
        self._on_device(tokens).put(self.hidden_BTD.view(-1, self.hidden_BTD.shape[-1]), hidden_ND)

    def replace_keys(self, tokens: Selection, make: MakeKeys) -> None:
        """Write other keys and values, as projections would make them: before norms and rotary angles."""
        self.writes_keys, tokens, made = True, self._on_device(tokens), list[Tensor]()

        def project(part: int, before: Projection, own: Callable[[Tensor], Tensor], input_BTF: Tensor) -> Tensor:
            input_NF = input_BTF.flatten(0, 1)
            if not made:
                key, value = self.layer.decoder.for_keys[self.index].own_projections
                made.extend(make(key, value, input_NF[tokens.index]))
            whole_NH = tokens.fill(len(input_NF), made[part], lambda: before(own, input_BTF).flatten(0, 1))
            return whole_NH.reshape(*input_BTF.shape[:2], -1)

        befores = self.projections or [_unchanged, _unchanged]
        self.projections = [partial(project, part, before) for part, before in enumerate(befores)]

    def copy(self, flag_BT: Tensor) -> None:
        """Write the keys and values of the layer before."""
        self.copied_BT = flag_BT if self.copied_BT is None else self.copied_BT | flag_BT

    def hide(self, flag_BT: Tensor) -> None:
        """Hide tokens of the pass from later ones in this layer."""
        self.hidden_columns_BT = flag_BT if self.hidden_columns_BT is None else self.hidden_columns_BT | flag_BT

    # ---- what the visitor does

    def run(self) -> Tensor:
        """Run the layer, and return the hidden states after it, (B, T, D)."""
        self._prepare()
        after_BTD = self.layer.run(self.hidden_BTD, self.projections)
        self.cache.rewrite = None
        return after_BTD

    def run_keys_alone(self) -> None:
        """Write keys and values without running the rest of the layer."""
        self._prepare()
        if self.writes_keys:
            self.layer.write_keys(self.hidden_BTD, self.projections)
        elif self.copied_BT is not None:
            self.cache.copy_layer(self.index - 1, self.index, self.hidden_BTD.shape[1])
        self.cache.rewrite = None

    def _prepare(self) -> None:
        if self.hidden_columns_BT is not None:
            self.cache.hide(self.index, self.hidden_columns_BT)
        if self.copied_BT is not None:
            self.cache.rewrite = partial(self._copied, self.copied_BT.to(self.device))

    def _copied(self, flag_BT: Tensor, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, (B, heads, T, width), with those of the layer before at the flag."""
        before, flag = self.cache.latest(layer - 1, keys.shape[2]), flag_BT[:, None, :, None]
        parts = zip(before, (keys, values), strict=True)
        key, value = (torch.where(flag, old.to(new.device), new) for old, new in parts)
        return key, value

    def _on_device(self, tokens: Selection) -> Selection:
        return tokens if tokens.mask_M is None else replace(tokens, mask_M=tokens.mask_M.to(self.device))


def _unchanged(own: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """A projection that is a layer's own."""
    return own(given)
