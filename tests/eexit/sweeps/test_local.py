"""Sweeps in a real Jupyter kernel: what a cell shows while one runs, and after Ctrl-C."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from driving import wait_until
from nbclient import NotebookClient
from scripted import rows_of

import eexit
from eexit.errors import SweepStopped
from eexit.plan.runs import Run
from eexit.plan.sweep_config import SweepConfig
from eexit.results.shard_tables import ProgressCallback, ShardTables
from eexit.sweeps import local


@pytest.fixture(scope="module")
def kernel(model: str) -> Iterator[NotebookClient]:
    """Yield a client of a kernel with eexit imported, and `model`, the path of a small one."""
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell()])  # type: ignore[no-untyped-call]
    client = NotebookClient(empty, timeout=120, allow_errors=True, coalesce_streams=True)
    with client.setup_kernel():
        shown(client, f"import eexit, os, tqdm.auto; model = {model!r}")  # tqdm warns where ipywidgets are missing
        yield client


def shown(kernel: NotebookClient, code: str) -> Any:
    cell = nbformat.v4.new_code_cell(code)  # type: ignore[no-untyped-call]
    return kernel.execute_cell(cell, 0).outputs


def interrupted(kernel: NotebookClient, code: str, has_begun: Callable[[], bool]) -> Any:
    """Run a cell, and interrupt it once it has begun, and again, since Python ignores an interrupt in a destructor."""
    [found], ended = shown(kernel, "os.getpid()"), threading.Event()

    def interrupt() -> None:
        wait_until(has_begun)
        while not ended.wait(1):
            os.kill(int(found.data["text/plain"]), signal.SIGINT)
            ended.wait(19)

    (thread := threading.Thread(target=interrupt)).start()
    outputs = shown(kernel, code)
    ended.set()
    thread.join()
    return outputs


def test_progress_is_tqdms_bar_below_what_is_said(kernel: NotebookClient) -> None:
    call = "eexit.sweep(['one', 'two'], model=model, exit_every=2, max_new_tokens=8, rules={'kl': [1], 'fixed': [2]})"
    bar, said = sorted(shown(kernel, f"done = {call}"), key=lambda output: str(output.output_type))
    in_order = (
        "inspecting the model", "decoded once: fixed/2 in unfrozen, frozen_residual",
        "runs: 10 = 2 prompts × 5 configurations × 1 seed", "tokens: up to 80 new ones, 8 a run; prompts have about 2",
        "memory: about ", "loading the model", "10 runs to do",
    )  # fmt: skip
    lines = said.text.splitlines()
    at = [next(number for number, line in enumerate(lines) if words in line) for words in in_order]
    assert (said.name, at[0], at[-1], at) == ("stdout", 0, len(lines) - 1, sorted(at))
    assert "application/vnd.jupyter.widget-view+json" in bar.data
    values = [str(state.get("value")).replace("\u2007", " ") for state in kernel.widget_state.values()]  # tqdm's spaces
    assert "1.0" in values, "the bar is full"
    assert any("10/10 runs" in text and "0 errors" in text for text in values)


def test_ctrl_c_is_one_line_and_returns_committed_runs(kernel: NotebookClient, tmp_path: Path) -> None:
    out, none = tmp_path / "out", tmp_path / "none"
    call = "eexit.sweep(map(str, range(500)), model=model, exit_every=2, quiet=True, max_new_tokens=400, "
    cut = f"cut = {call} rows_per_shard=1, out={str(out)!r})"
    *_, said = interrupted(kernel, cut, lambda: any(out.glob("generations/*.parquet")))
    n_runs = len(pd.read_parquet(out / "generations"))
    line = f"interrupted: {n_runs} of 4,500 runs committed; the same call with out={str(out)!r} resumes\n"
    assert (said.name, said.text[said.text.rfind("interrupted:") :]) == ("stderr", line)
    assert shown(kernel, "len(cut.runs)")[0].data["text/plain"] == str(n_runs)
    *_, error = interrupted(kernel, f"{call} rows_per_shard=500, out={str(none)!r})", (none / "sweep.json").exists)
    assert error.traceback == ["interrupted: no run is committed"]


class Fails:
    """A model that raises for one prompt, and from some run on always."""

    def __init__(self, config: SweepConfig, most: int = 1000, error: BaseException | None = None) -> None:
        self.config, self.left, self.error = config, most, error or RuntimeError("no such luck")

    def generate(self, runs: Sequence[Run], progress: ProgressCallback) -> ShardTables:
        self.left -= len(runs)
        if self.left < 0 or any(run.prompt.prompt == "bad" for run in runs):
            raise self.error
        return rows_of(runs, self.config)


def test_ctrl_c_ends_a_script_and_failed_runs_are_errors(model: str, tmp_path: Path, monkeypatch: Any) -> None:
    def sweep(prompts: Sequence[str], out: str, *fails: Any) -> Any:
        monkeypatch.setattr(local, "ModelGenerator", lambda config, device, loaded: Fails(config, *fails))
        grid: dict[str, Any] = {"modes": ["normal"], "exit_every": 2, "quiet": True, "rows_per_shard": 2}
        return eexit.sweep(prompts, model=model, out=tmp_path / out, **grid)

    numbers = [*map(str, range(40))]
    done = sweep(["one", "bad", "two"], "one")
    assert done.runs.status.tolist() == ["ok", "error", "ok"]
    assert done.runs.error[1] == "RuntimeError: no such luck"
    with pytest.raises(SweepStopped, match="a run that had worked now fails too: RuntimeError: no such luck"):
        sweep(numbers, "two", 4)
    assert (eexit.open(tmp_path / "two").runs.status == "ok").sum() == 4
    with pytest.raises(KeyboardInterrupt):
        sweep(numbers, "script", 4, KeyboardInterrupt())
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert len(sweep(numbers, "prompt", 4, KeyboardInterrupt()).runs) == 4, "at a prompt"
