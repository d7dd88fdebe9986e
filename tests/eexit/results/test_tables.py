"""Definitions of columns."""

import pytest

from eexit.results.tables import GENERATIONS


@pytest.mark.parametrize("name", ["layers_run", "head_reads", "kv_writes", "macs_executed"])
def test_counts_that_a_batch_does_not_have_say_so(name: str) -> None:
    definition = GENERATIONS.field(name).metadata[b"definition"].decode()
    assert "decoded alone" in definition
