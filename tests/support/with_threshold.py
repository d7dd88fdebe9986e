"""A rule as in a notebook, with a global that changes later."""

from typing import Any

threshold = 0.3


def beyond_threshold(layer: Any, parameter: Any) -> Any:
    """exits from a layer on where the highest probability is above a threshold of the notebook"""
    return is_above(layer) & (layer.index >= parameter)


def is_above(layer: Any) -> Any:
    return layer.top2_prob[:, 0] >= threshold
