"""The engine's input and output: requests, how these are decoded, and their outcomes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eexit.decode.costs import DraftRounds, OpCounts
from eexit.method.kv_maps import KVMaps
from eexit.method.linear_predictors import Gate, Probe
from eexit.method.readouts import READOUTS, Readout
from eexit.method.screen import Screen
from eexit.plan.config import Observe
from eexit.plan.configuration import Configuration, EarlyExit
from eexit.results.token_columns import TokenColumns


@dataclass(frozen=True)
class Request:
    """One row to generate."""

    prompt_token_ids: tuple[int, ...]
    configuration: Configuration
    seed: int = 0

    @property
    def is_oracle(self) -> bool:
        """Whether its rule looks at the full-depth pass, which then runs beside it."""
        return isinstance(self.configuration, EarlyExit) and self.configuration.is_oracle


@dataclass(frozen=True)
class PartialOutput:
    """What a row has generated, for what looks at it while it decodes."""

    request: Request
    token_ids: Sequence[int]
    exit_layers: Sequence[int]  # of the same tokens


@dataclass(frozen=True)
class DecodingConfig:
    """How all rows decode. Temperature 0 is greedy. Rules that look at a `probe` need one, gated rows a `gate`, and
    states that map `kv_maps`.

    With a `screen`, rules that read a layer look at the tokens that it lets through. What is generated is read from the
    whole head.

    At most `rows` rows are in flight, as far as their caches fit in what the device has free, of which this process may
    use `memory_share`. `record_top_k` is how many of each layer's likeliest tokens are recorded. After each step, a row
    also ends if `stops`, given the row so far, says so, as for stop strings. `observe` says at which layers the
    full-depth model is read on the texts: at all exitable ones and the final one, at the final one, or at none.
    """

    exitable_layers: tuple[int, ...]
    max_new_tokens: int
    eos_token_ids: frozenset[int]
    stop_fn: Callable[[PartialOutput], bool] | None = None
    readout: Readout = READOUTS["lens"]
    probe: Probe | None = None
    gate: Gate | None = None
    kv_maps: KVMaps | None = None
    screen: Screen | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    record_top_k: int = 0
    record_full_depth: Observe = "all"
    max_rows: int = 1024
    memory_share: float = 1.0

    @property
    def n_observed(self) -> int:
        """At how many layers the full-depth model is read, of the exitable ones and then the final one: the last of
        them."""
        return {"all": len(self.exitable_layers) + 1, "final": 1, "none": 0}[self.record_full_depth]


@dataclass(frozen=True, kw_only=True)
class RequestOutput(TokenColumns):
    """What a row generated, and what was run for it."""

    counts: OpCounts | None  # None beside a teacher, whose passes rows share
    rounds: DraftRounds | None  # of mode draft


@dataclass(frozen=True)
class RequestFailure:
    """Why a row could not be generated."""

    error: str


Outcome = RequestOutput | RequestFailure
