"""What a sweep's model is and takes, found out in a process of its own: the driver holds no torch."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any, ParamSpec, TypeVar

from eexit.config import SweepConfig, UsageError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights, and of the keys and values of the rows in flight (full-depth and altered)."""

    weights: int
    cache: int

    def of_node(self, gpus: float) -> int:
        """What an actor takes of its node: weights pass through there on their way to a GPU, keys and values don't."""
        return self.weights if gpus else self.weights + self.cache

    def __str__(self) -> str:
        return f"{size(self.weights + self.cache)}: {size(self.weights)} weights, {size(self.cache)} keys and values"


Look = tuple[dict[str, Any], tuple[int, ...], Memory | None]


def aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call it in a fresh process, whose memory is gone afterwards. Raises what it raises.

    What it returns must be plain: to unpickle a class is to import its module here, and what that imports.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        try:
            return executor.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise UsageError("the process that looked at the model was killed: is there memory enough?") from error


def look_at_model(config: SweepConfig, rows: int, prompt_tokens: int) -> Look:
    """Its description, the layers that the sweep may exit at, and what `look_at_memory` says.

    Raises `UsageError`.
    """
    from eexit.exits import resolve_exitable_layers
    from eexit.models import describe_model

    model = describe_model(config)
    layers = resolve_exitable_layers(config, model.n_layers)
    return asdict(model), layers, look_at_memory(config, rows, prompt_tokens)


def look_at_memory(config: SweepConfig, rows: int, prompt_tokens: int) -> Memory | None:
    """Of one actor with `rows` rows of the longest prompt in flight, without loading weights.

    Activations and what the device's own library takes come on top; with dtype auto, the numbers are as wide as on
    this machine. None for a model whose own code can't be run without its weights. Raises `UsageError`.
    """
    from eexit.models import estimate_memory
    from eexit.rows import Decoding

    try:
        weights, cache = estimate_memory(config, rows, prompt_tokens)
    except RuntimeError:  # of a meta tensor that was asked for its numbers
        return None
    return Memory(weights, min(cache, Decoding.cache_bytes))


def size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
