"""How many layers' attention is checked where tests load models: that takes most of the time of loading small ones."""

import sys
from collections.abc import Iterator

import pytest


def check_attention_of_every(n_layers: int, patch: pytest.MonkeyPatch) -> None:
    """Of models whose layers are alike, a decoder checks the attention of one in so many, since each takes its time."""
    from eexit.model.support.our_attention import AttentionCheck

    check = AttentionCheck.__call__
    patch.setattr(AttentionCheck, "__call__", lambda its, layer: layer % n_layers or check(its, layer))


@pytest.fixture(scope="module", autouse=True)
def first_layers_attention_is_checked() -> Iterator[None]:
    """In tests of what is done with models: those of how they are taken apart and decoded check that of all layers."""
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:  # else no model is loaded
            check_attention_of_every(sys.maxsize, patch)
        yield
