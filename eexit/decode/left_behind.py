"""Tokens of one state that have exited before the layers being run: what `states.Exited` asks for."""

from dataclasses import dataclass

from torch import Tensor

from eexit.model.layerwise import LayerPass
from eexit.model.views import CacheView


@dataclass
class ExitedTokens:
    """They keep the residual stream they exited with; how many layers' keys and values were written is counted.

    Beside a teacher, keys and values up to the fork are in its cache alone.
    """

    layer_pass: LayerPass
    hidden_BTW: Tensor
    teacher: CacheView | None = None  # of the tokens' prefixes
    fork: int = -1
    n_written: int = 0

    def write_keys(self, layer: int) -> None:
        self.layer_pass.write_keys(layer, self.hidden_BTW)
        self.n_written += 1

    def copy_keys(self, layer: int) -> None:
        source = self.teacher if self.teacher and layer - 1 <= self.fork else self.layer_pass.view
        self.layer_pass.view.copy_keys(source, layer - 1, layer)

    def hide(self, layer: int) -> None:
        self.layer_pass.view.hide(layer)
