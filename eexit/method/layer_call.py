"""One call of a layer in a pass, and the changes that modes make to it for exited tokens.

Shapes: M exited tokens of the N in the pass, F width of the input of a layer's projections, H of its keys or values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from eexit.cpu.token_subset import TokenSubset
from eexit.method.kv_maps import KVMaps
from eexit.model.kv_projection import Projection
from eexit.model.layers import VisitedLayer

# From a layer's own projections to keys and to values, and their input (M, F): keys and values, (M, H) each.
MakeKeys = Callable[[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class ExitContext:
    """Input of a mode's function: the M tokens that have exited."""

    layer: Tensor  # (M,): the exit layer
    hidden: Tensor  # (M, D): the hidden state after it
    kept: dict[str, Tensor] = field(default_factory=dict)

    @property
    def hidden_in(self) -> Tensor:
        """The hidden state before the exit layer, (M, D), for modes that need it."""
        return self._needed("hidden_in")

    @property
    def embedding(self) -> Tensor:
        """The hidden state before layer 0, (M, D), for modes that need it."""
        return self._needed("embedding")

    def _needed(self, name: str) -> Tensor:
        if name not in self.kept:
            raise AttributeError(f'it uses {name}: give needs=("{name}",)')
        return self.kept[name]


@dataclass(frozen=True)
class ExitedTokens:
    """Tokens of a pass that have exited, of sequences that share a mode."""

    flag_BT: Tensor
    tokens: TokenSubset  # of all tokens of the pass
    exit_layer_BT: Tensor  # of exited tokens
    kept: Mapping[str, Tensor]  # hidden states of all tokens, (B, T, D), by their names in `ExitContext`
    kv_maps: KVMaps | None
    checks_numbers: bool = True  # of custom modes

    def before_layer(self, layer: int) -> "ExitedTokens":
        """Return the tokens that exited before a layer."""
        exit_layer_M = self.exit_layer_BT.flatten()[self.tokens.index]
        return replace(self, tokens=self.tokens.narrow(exit_layer_M < layer)[0])

    def context(self, hidden_BTD: Tensor) -> ExitContext:
        """Return the input of a mode's function on the device of `hidden_BTD`, the hidden states at exits."""

        def select(tensor_BT: Tensor) -> Tensor:
            return tensor_BT.flatten(0, 1)[self.tokens.index].to(hidden_BTD.device)

        kept = {name: select(tensor) for name, tensor in self.kept.items()}
        return ExitContext(select(self.exit_layer_BT), select(hidden_BTD), kept)


class LayerCall:
    """Call of a layer: its input, and the changes that modes make to it for exited tokens."""

    def __init__(self, layer: VisitedLayer, hidden_BTD: Tensor):
        self.layer, self.cache, self.index = layer, layer.cache, layer.index
        self.device = layer.decoder.devices[layer.index]
        self.hidden_before = self.hidden_BTD = hidden_BTD.to(self.device)
        self.projections: Sequence[Projection] = ()  # in place of the layer's own to keys and to values
        self.writes_kv = False
        self.copied_BT: Tensor | None = None
        self.hidden_columns_BT: Tensor | None = None

    # ---- called by modes

    def write(self) -> None:
        """Write the layer's keys and values for its input, and skip the rest of the layer."""
        self.writes_kv = True

    def replace_hidden(self, tokens: TokenSubset, hidden_MD: Tensor) -> None:
        """Write keys and values from these hidden states for some tokens, in place of the layer's input."""
        self.writes_kv = True
        if self.hidden_BTD is self.hidden_before:
            self.hidden_BTD = self.hidden_before.clone()
        self._on_device(tokens).put(self.hidden_BTD.view(-1, self.hidden_BTD.shape[-1]), hidden_MD)

    def replace_keys(self, tokens: TokenSubset, make: MakeKeys) -> None:
        """Replace the keys and values that the layer's projections return, before norms and rotary angles."""
        self.writes_kv, tokens, made = True, self._on_device(tokens), list[Tensor]()
        layer = self.layer.decoder.for_keys[self.index]  # without `self`, whose cycle would keep the cache alive

        def project(part: int, before: Projection, own: Callable[[Tensor], Tensor], input_BTF: Tensor) -> Tensor:
            input_NF = input_BTF.flatten(0, 1)
            if not made:
                key, value = layer.own_projections
                made.extend(make(key, value, input_NF[tokens.index]))
            output_NH = tokens.fill(len(input_NF), made[part], lambda: before(own, input_BTF).flatten(0, 1))
            return output_NH.reshape(*input_BTF.shape[:2], -1)

        befores = self.projections or [lambda own, input_BTF: own(input_BTF)] * 2
        self.projections = [partial(project, part, before) for part, before in enumerate(befores)]

    def copy(self, flag_BT: Tensor) -> None:
        """Copy the keys and values of the layer before."""
        self.copied_BT = flag_BT if self.copied_BT is None else self.copied_BT | flag_BT

    def hide(self, flag_BT: Tensor) -> None:
        """Hide tokens of this pass from later tokens in this layer."""
        self.hidden_columns_BT = flag_BT if self.hidden_columns_BT is None else self.hidden_columns_BT | flag_BT

    # ---- called by the visitor

    def run(self) -> Tensor:
        """Run the layer, and return the hidden states after it, (B, T, D)."""
        self._prepare()
        after_BTD = self.layer.run(self.hidden_BTD, self.projections)
        self.cache.rewrite = None
        return after_BTD

    def run_keys_alone(self) -> None:
        """Write keys and values without running the rest of the layer."""
        self._prepare()
        if self.writes_kv:
            self.layer.write_keys(self.hidden_BTD, self.projections)
        elif self.copied_BT is not None:
            self.cache.copy_layer(self.index - 1, self.index, self.hidden_BTD.shape[1])
        self.cache.rewrite = None

    def _prepare(self) -> None:
        if self.hidden_columns_BT is not None:
            self.cache.hide(self.index, self.hidden_columns_BT)
        if self.copied_BT is not None:
            self.cache.rewrite = partial(self._copy_below, self.copied_BT.to(self.device))

    def _copy_below(self, flag_BT: Tensor, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, (B, H, T, F) each, with those of the layer before at the flag."""
        below, flag = self.cache.latest(layer - 1, keys.shape[2]), flag_BT[:, None, :, None]
        pairs = zip(below, (keys, values), strict=True)
        key, value = (torch.where(flag, copied.to(own.device), own) for copied, own in pairs)
        return key, value

    def _on_device(self, tokens: TokenSubset) -> TokenSubset:
        return tokens if tokens.mask_M is None else replace(tokens, mask_M=tokens.mask_M.to(self.device))
