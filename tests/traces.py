"""Assertions about generated rows."""

from collections.abc import Iterable
from dataclasses import fields

import numpy as np

from eexit.configuration import NORMAL, Configuration
from eexit.rows import Outcome, Request
from eexit.trace import Trace

CLOSE = {
    "kl_TE", "evidence_TE", "exit_prob_TX", "logprob_T", "entropy_T", "top_prob_TXK", "exit_logprob_T",
    "exit_top_prob_TK",
}  # fmt: skip


def traces_of(outcomes: Iterable[tuple[int, Outcome]]) -> dict[int, Trace]:
    """Those of rows of which none may fail."""
    traces = {}
    for index, outcome in outcomes:
        assert isinstance(outcome, Trace), outcome
        traces[index] = outcome
    return traces


def assert_same(ours: Outcome, theirs: Outcome) -> None:
    """Identical tokens and exits, KL to 1e-4 (of its size, where it is above 1 nat)."""
    assert isinstance(ours, Trace), ours
    assert isinstance(theirs, Trace), theirs
    for field in fields(Trace):
        if field.name == "counts":  # the reference counts nothing
            continue
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name in CLOSE:
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4, err_msg=field.name)
        else:
            np.testing.assert_array_equal(mine, other, err_msg=field.name)


def kl_request(prompt: tuple[int, ...], mode: str, kl_factor: float | None = None, seed: int = 0) -> Request:
    """A row of rule kl, or of `normal`, whatever the factor."""
    if mode == NORMAL:
        return Request(prompt, Configuration(NORMAL), seed)
    assert kl_factor is not None
    return Request(prompt, Configuration(mode, "kl", float(kl_factor)), seed)
