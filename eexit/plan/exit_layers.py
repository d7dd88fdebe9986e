"""Exitable layers of a sweep, resolved for its model."""

from collections.abc import Sequence

from eexit.errors import UsageError
from eexit.method.rules import format_parameter
from eexit.plan.configuration import Draft, EarlyExit, gives_its_exits
from eexit.plan.runs import configurations
from eexit.plan.sweep_config import SweepConfig


def resolve_exitable_layers(config: SweepConfig, n_layers: int) -> tuple[int, ...]:
    """Return the exitable layers in increasing order, all below the final layer.

    Raises: `UsageError` for a layer at or above the final one, no layer at all, a rule's parameter that does not fit,
    or a draft at another layer.
    """
    layers = config.exit_layers or every_nth_layer(n_layers, config.exit_every)
    beyond = [layer for layer in layers if layer >= n_layers - 1]
    if beyond:
        raise UsageError(
            f"exit layer {beyond[0]} is not below the final layer: {config.model} has layers 0…{n_layers - 1}, "
            f"so --exit-layers may go up to {n_layers - 2}"
        )
    for configuration in configurations(config):
        match configuration:
            case EarlyExit():
                try:
                    configuration.per_layer(layers)
                except ValueError as error:
                    raise UsageError(str(error)) from error
                _refuse_beyond(configuration, layers, n_layers)
            case Draft(int(layer)) if layer not in layers:
                raise UsageError(
                    f"draft {configuration} is not at an exitable layer, which are {', '.join(map(str, layers))}: "
                    "choose one of them, or give others with --exit-layers"
                )
    return layers


def _refuse_beyond(configuration: EarlyExit, layers: Sequence[int], n_layers: int) -> None:
    """Raise `UsageError` for a fixed exit above the exitable layers, except at the final one without an exit set."""
    layer = configuration.parameter
    if not gives_its_exits(configuration) or not isinstance(layer, float) or layer <= layers[-1]:
        return
    if layer != n_layers - 1 or configuration.layers:
        raise UsageError(
            f"rule {configuration.rule} can't exit at layer {format_parameter(layer)}: the exitable layers are "
            f"{' '.join(map(str, layers))}, and the final one is {n_layers - 1}; "
            "choose one of them, or give others with --exit-layers"
        )


def every_nth_layer(n_layers: int, n: int = 5) -> tuple[int, ...]:
    """Return the layers l with 0 < l < L−1 and l % n == 0 for L layers. Raises `UsageError` if there is none."""
    layers = tuple(range(n, n_layers - 1, n))
    if not layers:
        raise UsageError(
            f"no exitable layer: the model has layers 0…{n_layers - 1} and --exit-every is {n}; "
            "lower it or give --exit-layers"
        )
    return layers


def with_layer_between(layers: Sequence[int]) -> tuple[int, ...]:
    """Return the layers with one more between the last two, since the late exit layer determines the saving.

    On the default model, exits at layer 23 alone save half as much again within 1 % disagreement as at 25.
    """
    between = [(layers[-2] + layers[-1] + 1) // 2] if len(layers) > 1 else []
    return tuple(sorted({*layers, *between}))
