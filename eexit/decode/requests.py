"""Requests, how they are decoded, and their outcomes."""

from collections.abc import Callable
from dataclasses import dataclass

from eexit.costs.operations import DraftRounds, OpCounts
from eexit.method.kv_maps import KVMaps
from eexit.method.linear_predictors import Gate, Probe
from eexit.method.readouts import READOUTS, Readout
from eexit.method.screen import Screen
from eexit.plan.configuration import Configuration, EarlyExit
from eexit.plan.sweep_config import Observe
from eexit.results.token_columns import TokenColumns


@dataclass(frozen=True)
class Request:
    """Prompt to continue under a configuration."""

    prompt_token_ids: tuple[int, ...]
    configuration: Configuration
    seed: int = 0

    @property
    def is_oracle(self) -> bool:
        """True if the rule reads the full-depth pass."""
        return isinstance(self.configuration, EarlyExit) and self.configuration.is_oracle

    @property
    def prefilled(self) -> tuple[int, ...]:
        """Tokens of the prompt that prefill runs. With prompt exits, the first step runs the last token.

        A prompt of one token then stands for an empty one: no token attends to the prefilled one.
        """
        ids = self.prompt_token_ids
        return ids[:-1] or ids if self.configuration.prompt_exits else ids


@dataclass(frozen=True)
class PartialOutput:
    """Tokens that a request in flight has generated so far, and their exit layers."""

    request: Request
    token_ids: list[int]
    exit_layers: list[int]


@dataclass(frozen=True)
class DecodingConfig:
    """Decoding options. Some rules need a `probe`, some configurations a `gate`, some modes `kv_maps`."""

    exitable_layers: tuple[int, ...]
    max_new_tokens: int
    eos_token_ids: frozenset[int]
    stop_fn: Callable[[PartialOutput], bool] | None = None  # called after each step; True ends the request
    readout: Readout = READOUTS["lens"]
    probe: Probe | None = None
    gate: Gate | None = None
    kv_maps: KVMaps | None = None
    screen: Screen | None = None  # rules read its approximation of the lm_head; next tokens are of the whole head
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    record_top_k: int = 0  # top tokens of each layer that are recorded
    record_full_depth: Observe = "all"  # layers recorded at full depth: all exitable and the final one, or fewer
    max_rows: int = 1024  # requests in flight at most; their KV caches may allow fewer
    memory_share: float = 1.0  # of a device's memory, that this process may use

    @property
    def n_observed(self) -> int:
        """Number of layers at which the full-depth pass is recorded: X, 1 (the final layer) or 0."""
        return {"all": len(self.exitable_layers) + 1, "final": 1, "none": 0}[self.record_full_depth]


@dataclass(frozen=True, kw_only=True)
class RequestOutput(TokenColumns):
    """Recorded columns of a finished request, and its operation counts."""

    counts: OpCounts | None  # None for oracles, which share a full-depth pass
    rounds: DraftRounds | None  # of mode draft


@dataclass(frozen=True)
class RequestFailure:
    """Reason why a request could not be decoded."""

    error: str


Outcome = RequestOutput | RequestFailure
