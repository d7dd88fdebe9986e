"""Sweeps in a real Jupyter kernel: what a cell shows while one runs, and after Ctrl-C."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jupyter_client.manager import start_new_kernel
from scripted import rows_of

import eexit
from eexit.errors import SweepStopped
from eexit.plan.runs import Run
from eexit.plan.sweep_config import SweepConfig
from eexit.results.shard_tables import ProgressCallback, ShardTables
from eexit.sweeps import local

WIDGET, FIGURE_SPACE = "application/vnd.jupyter.widget-view+json", "\u2007"  # tqdm's spaces
SECONDS = 120.0  # until a kernel is given up
LONG = "max_new_tokens=400, rows_per_shard=1, record_top_k=0"  # of 500 prompts, which take minutes


class Kernel:
    """A kernel with eexit imported, and `model`, the path of a small one."""

    def __init__(self, manager: Any, client: Any, model: str) -> None:
        self.interrupt, self._client = manager.interrupt_kernel, client
        self.run(f"import eexit, tqdm.auto; model = {model!r}")  # tqdm warns where ipywidgets are missing

    def start(self, code: str) -> None:
        self._cell = self._client.execute(code)

    def finish(self) -> list[tuple[str, str]]:
        """What the started cell shows in the end: the kind and text of each output."""
        outputs: dict[object, tuple[str, str]] = {}
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            message = self._client.get_iopub_msg(timeout=SECONDS)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != self._cell:
                continue
            if kind == "status" and content["execution_state"] == "idle":
                return [*outputs.values()]
            if kind == "display_data" and WIDGET in content["data"]:
                outputs[content["data"][WIDGET]["model_id"]] = "widget", content["data"]["text/plain"]
            elif kind == "comm_msg" and "value" in (state := content["data"].get("state", {})):
                outputs[content["comm_id"]] = "value", str(state["value"]).replace(FIGURE_SPACE, " ")
            elif kind == "stream":
                before = outputs.get(content["name"], ("", ""))[1]
                outputs[content["name"]] = content["name"], before + content["text"]
            elif kind == "error":
                outputs[kind] = kind, "\n".join(content["traceback"])
            elif kind == "execute_result":
                outputs[kind] = kind, content["data"]["text/plain"]
        raise TimeoutError("the kernel is still busy")

    def interrupted(self) -> list[tuple[str, str]]:
        """What the interrupted cell shows. Python ignores an interrupt in a destructor, so that another one follows."""
        again = threading.Timer(20, self.interrupt)
        self.interrupt()
        again.start()
        try:
            return self.finish()
        finally:
            again.cancel()

    def run(self, code: str) -> list[tuple[str, str]]:
        self.start(code)
        return self.finish()


@pytest.fixture(scope="module")
def kernel(model: str) -> Iterator[Kernel]:
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        yield Kernel(manager, client, model)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_progress_is_tqdms_bar_below_what_is_said(kernel: Kernel) -> None:
    shown = kernel.run("done = eexit.sweep(['one', 'two'], model=model, exit_every=2, max_new_tokens=8)")
    [said] = [text for kind, text in shown if kind == "stdout"]
    assert said.splitlines()[0] == "inspecting the model"
    assert said.splitlines()[-1] == "18 runs to do"
    assert len([text for kind, text in shown if kind == "widget"]) == 1
    values = [text for kind, text in shown if kind == "value"]
    assert "1.0" in values, "the bar is full"
    assert [text for text in values if "18/18 runs" in text and "0 errors" in text]
    assert {kind for kind, _ in shown} == {"stdout", "widget", "value"}


def test_ctrl_c_is_one_line_also_before_a_commit_and_committed_runs_are_returned(
    kernel: Kernel, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    kernel.start(
        f"cut = eexit.sweep(map(str, range(500)), model=model, exit_every=2, out={str(out)!r}, quiet=True, {LONG})"
    )
    until = time.monotonic() + SECONDS
    while not [*out.glob("generations/*.parquet")] and time.monotonic() < until:
        time.sleep(0.05)
    *_, (kind, line) = kernel.interrupted()
    assert kind == "stderr"
    n_runs = len(pd.read_parquet(out / "generations"))
    said = line[line.rfind("interrupted:") :]
    assert said == f"interrupted: {n_runs} of 4,500 runs committed; the same call with out={str(out)!r} resumes\n"
    assert kernel.run("len(cut.runs)") == [("execute_result", str(n_runs))]
    none, long = tmp_path / "none", LONG.replace("=1", "=500")
    kernel.start(f"eexit.sweep(map(str, range(500)), model=model, exit_every=2, out={str(none)!r}, quiet=True, {long})")
    while not (none / "sweep.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
    assert kernel.interrupted()[-1] == ("error", "interrupted: no run is committed")


class Fails:
    """A model that raises for one prompt, and from some run on always."""

    def __init__(self, config: SweepConfig, most: int = 1000, error: BaseException | None = None) -> None:
        self.config, self.left, self.error = config, most, error or RuntimeError("no such luck")

    def generate(self, runs: Sequence[Run], progress: ProgressCallback) -> ShardTables:
        self.left -= len(runs)
        if self.left < 0 or any(run.prompt.prompt == "bad" for run in runs):
            raise self.error
        return rows_of(runs, self.config)


def test_ctrl_c_ends_a_script_and_at_a_prompt_what_has_landed_is_returned(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ModelGenerator", lambda config, device, loaded: Fails(config, 4, KeyboardInterrupt()))
    grid: dict[str, Any] = {"model": model, "modes": ["normal"], "exit_every": 2, "quiet": True, "rows_per_shard": 2}
    with pytest.raises(KeyboardInterrupt):
        eexit.sweep([*map(str, range(40))], out=tmp_path / "script", **grid)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert len(eexit.sweep([*map(str, range(40))], out=tmp_path / "prompt", **grid).runs) == 4


def test_what_raises_becomes_the_errors_of_its_runs_and_stops_a_sweep_that_only_fails(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid: dict[str, Any] = {"model": model, "modes": ["normal"], "exit_every": 2, "dtype": "float32", "quiet": True}
    monkeypatch.setattr(local, "ModelGenerator", lambda config, device, loaded: Fails(config))
    done = eexit.sweep(["one", "bad", "two"], out=tmp_path / "one", **grid)
    assert done.runs.status.tolist() == ["ok", "error", "ok"]
    assert done.runs.error[1] == "RuntimeError: no such luck"
    monkeypatch.setattr(local, "ModelGenerator", lambda config, device, loaded: Fails(config, 4))
    with pytest.raises(SweepStopped, match="a run that had worked now fails too: RuntimeError: no such luck"):
        eexit.sweep([*map(str, range(40))], out=tmp_path / "two", rows_per_shard=2, **grid)
    assert (eexit.open(tmp_path / "two").runs.status == "ok").sum() == 4
