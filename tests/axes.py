"""Parameters to test each rule with; a new rule has its line in each of these."""

from typing import Final

from eexit.rules import Parameter

EXITABLE: Final = (1, 3, 4)  # of models with seven layers
# With which it exits here and there; always at the first exitable layer; never. Of a rule that can't, there is none.
SOME: Final[dict[str, list[Parameter]]] = {"kl": [0.5, 2.0], "agree": [None], "fixed": [3.0, 4.0]}
ALWAYS: Final[dict[str, list[Parameter]]] = {"kl": [0.0], "agree": [], "fixed": [1.0]}
NEVER: Final[dict[str, list[Parameter]]] = {"kl": [1e9], "agree": [], "fixed": []}
