"""Assertions about generated outputs."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from eexit.decode.requests import Outcome, Request, RequestOutput
from eexit.plan.configuration import NORMAL, EarlyExit, NoExit
from eexit.plan.runs import LENGTH

CLOSE = {
    "kl_TE", "jsd_TE", "exit_score_TE", "exit_prob_TX", "logprob_T", "entropy_T", "top_prob_TXK", "exit_logprob_T",
    "exit_top_prob_TK",
}  # fmt: skip
EQUALLY_PROBABLE_NATS = 2e-6
SUFFIXES = ("_T", "_TE", "_TX", "_TK", "_TXK")


def spy_on(patch: pytest.MonkeyPatch, owner: Any, name: str, note: Callable[..., Any]) -> list[Any]:
    """Return a list to which each call of a function adds what `note` makes of its arguments."""
    notes, function = list[Any](), getattr(owner, name)

    def call(*args: Any) -> Any:
        notes.append(note(*args))
        return function(*args)

    patch.setattr(owner, name, call)
    return notes


def traces_of(outcomes: Iterable[tuple[int, Outcome]]) -> dict[int, RequestOutput]:
    """Return the outputs by index, and assert that none failed."""
    traces = {}
    for index, outcome in outcomes:
        assert isinstance(outcome, RequestOutput), outcome
        traces[index] = outcome
    return traces


def assert_same(ours: Outcome, theirs: Outcome) -> None:
    """Assert equal tokens and exits, and KL to 1e-4 (relative, where it is above 1 nat).

    Sampling goes through tokens from the likeliest down. Where two are equally probable up to rounding, their order
    depends on the processor; such outputs are compared up to there.
    """
    assert isinstance(ours, RequestOutput), ours
    assert isinstance(theirs, RequestOutput), theirs
    tie = first_tie(ours, theirs)
    if tie is not None:
        ours, theirs = first_tokens(ours, tie), first_tokens(theirs, tie)
    assert (ours.prompt is None) == (theirs.prompt is None)
    if ours.prompt and theirs.prompt:
        np.testing.assert_array_equal(ours.prompt.exit_layer_T, theirs.prompt.exit_layer_T)
        np.testing.assert_allclose(ours.prompt.exit_score_TE, theirs.prompt.exit_score_TE, rtol=1e-4, atol=1e-4)
    assert tie is not None or str(ours.rounds) == str(theirs.rounds)
    compared_otherwise = {"rounds", "prompt", "counts"}  # the reference counts nothing
    for name in {field.name for field in fields(RequestOutput)} - compared_otherwise:
        mine, other = getattr(ours, name), getattr(theirs, name)
        if name in CLOSE:
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(mine, other, err_msg=name)


def first_tie(ours: RequestOutput, theirs: RequestOutput) -> int | None:
    """Return the first token that differs, if both have the same probability up to rounding."""
    n_tokens = min(len(ours.token_id_T), len(theirs.token_id_T))
    differs = np.flatnonzero(ours.token_id_T[:n_tokens] != theirs.token_id_T[:n_tokens])
    if not len(differs):
        return None
    at = int(differs[0])
    apart = abs(float(ours.exit_logprob_T[at]) - float(theirs.exit_logprob_T[at]))
    return at if apart < EQUALLY_PROBABLE_NATS else None


def first_tokens(trace: RequestOutput, n_tokens: int) -> RequestOutput:
    columns = {
        its.name: getattr(trace, its.name)[:n_tokens] for its in fields(RequestOutput) if its.name.endswith(SUFFIXES)
    }
    return replace(trace, **columns, finish_reason=LENGTH)


def kl_request(prompt: tuple[int, ...], mode: str, kl_factor: float | None = None, seed: int = 0) -> Request:
    """Return a request of rule kl, or of `normal`, whatever the factor."""
    if mode == NORMAL:
        return Request(prompt, NoExit(), seed)
    assert kl_factor is not None
    return Request(prompt, EarlyExit(mode, "kl", float(kl_factor)), seed)
