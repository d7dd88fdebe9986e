"""What a sweep's model is and takes, found out in a process of its own: the driver holds no torch."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from eexit.config import SweepConfig

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights, and of the keys and values of the rows in flight (full-depth and altered)."""

    weights: int
    cache: int

    def __str__(self) -> str:
        return f"{_size(self.weights + self.cache)}: {_size(self.weights)} weights, {_size(self.cache)} keys and values"


def aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call it in a fresh process, whose memory is gone afterwards. Raises what it raises."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *args, **kwargs).result()


def look_at_model(config: SweepConfig) -> tuple[object, tuple[int, ...]]:
    """Its `eexit.models.ModelDescription`, and the layers that the sweep may exit at. Raises `UsageError`."""
    from eexit.exits import resolve_exitable_layers
    from eexit.models import describe_model

    model = describe_model(config)
    return model, resolve_exitable_layers(config, model.n_layers)


def look_at_memory(config: SweepConfig, rows: int, prompt_tokens: int) -> Memory:
    """Of one actor with `rows` rows of the longest prompt in flight, without loading weights. Raises `UsageError`.

    Activations and what the device's own library takes come on top.
    """
    from eexit.models import estimate_memory

    return Memory(*estimate_memory(config, rows, prompt_tokens))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
