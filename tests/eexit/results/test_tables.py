"""Definitions of columns."""

import pytest

from eexit.results.tables import GENERATIONS


@pytest.mark.parametrize("name", ["layers_run", "head_reads", "keys_written", "cost_run"])
def test_counts_that_a_batch_does_not_have_say_so(name: str) -> None:
    definition = GENERATIONS.field(name).metadata[b"definition"].decode()
    assert "as if it was decoded alone" in definition or "if it is decoded alone" in definition
