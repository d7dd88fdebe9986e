"""Small synthetic sweeps on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_sweeps import CONFIGURATIONS, HOSTILE, failed_row, run_rows, story, write_sweep


@pytest.fixture(scope="session")
def make_sweep(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_sweep(n_prompts, configurations, hostile=…, fail=…) → the folder."""

    def make(
        n_prompts: int = 6,
        configurations: list[tuple[str, float | None]] = CONFIGURATIONS,
        hostile: bool = False,
        fail: Callable[[int, str, float | None], bool] = lambda prompt, mode, k: False,
        n_runs: int | None = None,
    ) -> Path:
        generations, tokens = [], []
        for prompt in range(n_prompts):
            question = HOSTILE if hostile and prompt == 1 else f"Question {prompt}?"
            for mode, k in configurations:
                if fail(prompt, mode, k):
                    generations.append(failed_row(str(prompt), question, mode, k, f"CUDA out of memory {HOSTILE}"))
                    continue
                pieces = story(prompt, mode, k)
                if hostile and prompt == 1:
                    pieces = [pieces[0], HOSTILE, "x" * 10_000, *pieces[1:]]
                row, rows = run_rows(str(prompt), question, mode, k, pieces)
                generations.append(row)
                tokens += rows
        return write_sweep(tmp_path_factory.mktemp("sweep") / "results", generations, tokens, n_runs)

    return make


@pytest.fixture(scope="session")
def full(make_sweep) -> Path:
    """Six prompts, one of them hostile, seven configurations, one failed run."""
    return make_sweep(hostile=True, fail=lambda prompt, mode, k: (prompt, mode, k) == (2, "unfrozen", 2.0))
