"""A generator without a model. Its rows depend on the run alone, and a prompt can make it fail.

Prompts with an effect:

    raise           the run raises
    die             the run ends its process
    die once        the same, but only the first time
    sleep S         the run takes S seconds
    wait            the run waits for a file `go` in the folder of marks
    hang            the run never ends
    hungry          more than two runs at once raise an out-of-memory error
    starved         more than two runs at once are killed, as the kernel's OOM killer would do
    broken later    from now on, all runs on this machine raise
    quota once      only the first time: from now on, this process can't write files above 2,000 bytes
    block           in the folder `out` next to the marks, a file is created where a folder should be

The generator records events as marks, which are files in the folder that the configuration names as its model.
"""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from eexit.errors import UsageError
from eexit.plan.model_inspection import ModelFacts
from eexit.plan.runs import Run
from eexit.plan.sweep_config import Prompt, SweepConfig
from eexit.results.committed import OF_TOP_PREDICTIONS
from eexit.results.shard_tables import ProgressCallback, ShardTables, run_columns
from eexit.results.tables import GENERATIONS, TOKENS

RunColumns = Callable[[Run], Mapping[str, Any]]
Predictions = Sequence[tuple[float, int]]  # of each layer: probability and likeliest token
TOKENS_PER_RUN = 3
FIT = 2


def look(config: SweepConfig, rows_per_shard: int) -> ModelFacts:
    return {"name": config.model, "n_layers": 30, "dtype": config.dtype}, (5,), None


def unloadable(config: SweepConfig, device: str) -> "ScriptedGenerator":
    Path(config.model, f"tried-{os.getpid()}").touch()
    raise UsageError("model 'nowhere' can't be found: choose another")


def loadable_twice(config: SweepConfig, device: str) -> "ScriptedGenerator":
    if len(list(Path(config.model).glob("loaded-*"))) >= 2:
        unloadable(config, device)
    return ScriptedGenerator(config, device)


def slow_to_load_once(config: SweepConfig, device: str) -> "ScriptedGenerator":
    """Hang the first load, after marking that its driver had time to see it come up; load the others at once."""
    if Path(config.model, "slow").exists():
        return ScriptedGenerator(config, device)
    Path(config.model, "slow").mkdir()
    time.sleep(4)
    Path(config.model, "slow", str(os.getpid())).touch()
    return slow_to_load(config, device)


def slow_to_load(config: SweepConfig, device: str) -> "ScriptedGenerator":
    time.sleep(1000)
    raise AssertionError


def sweep_of(folder: Path | str, *prompts: str, **fields: object) -> SweepConfig:
    given = {"model": str(folder), "max_new_tokens": TOKENS_PER_RUN, "dtype": "float32", **fields}
    given.setdefault("prompts", [Prompt(id=str(index), prompt=text) for index, text in enumerate(prompts)])
    return SweepConfig.model_validate(given)


class ScriptedGenerator:
    def __init__(self, config: SweepConfig, device: str) -> None:
        self._config = config
        self._folder = Path(config.model)
        (self._folder / f"loaded-{os.getpid()}-{ray.get_runtime_context().get_node_id()}-{device}").touch()

    def generate(self, runs: Sequence[Run], progress: ProgressCallback) -> ShardTables:
        if (self._folder / "broken").exists():
            raise RuntimeError("the machine is broken")
        if len(runs) > FIT and "hungry" in [run.prompt.prompt for run in runs]:
            bytearray(1 << 62)
        if len(runs) > FIT and "starved" in [run.prompt.prompt for run in runs]:
            os.kill(os.getpid(), signal.SIGKILL)
        for run in runs:
            self._act_out(run.prompt.prompt)
            progress(TOKENS_PER_RUN, 1)
            (self._folder / f"did-{run.run_id}-{time.monotonic_ns()}").touch()
        return rows_of(runs, self._config)

    def _act_out(self, prompt: str) -> None:
        if prompt.startswith("sleep"):
            time.sleep(float(prompt.split()[1]))
        elif prompt == "wait":
            while not (self._folder / "go").exists():
                time.sleep(0.02)
        elif prompt == "raise":
            raise RuntimeError("no such luck")
        elif prompt == "block":
            (self._folder / "out" / "tokens").touch()
        elif prompt == "hang":
            time.sleep(1000)
        elif prompt == "quota once" and not (self._folder / "quota").exists():
            (self._folder / "quota").touch()
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        elif prompt == "broken later":
            (self._folder / "broken").touch()
        elif prompt == "die" or (prompt == "die once" and not (self._folder / "died").exists()):
            (self._folder / "died").touch()
            os._exit(1)


scripted = ScriptedGenerator


def rows_of(runs: Sequence[Run], config: SweepConfig, columns: RunColumns = lambda run: {}) -> ShardTables:
    """Return three tokens per run, with numbers that follow from the run's id, except for these `columns`."""
    same: dict[str, Any] = {"status": "ok", "finish_reason": "length", "text": "abc", "n_tokens": TOKENS_PER_RUN}
    same |= {"prompt_token_ids": [1, 2], "n_prompt_tokens": 2, "exit_layer_counts": [(5, 1), (29, 1)]}
    of_token = {"drafted": False, "exit_layer": 29, "exit_prob": [0.0, 1.0], "logprob": -1.0, "entropy": 1.0}
    generations, tokens = [], []
    for run in runs:
        identity, share = run_columns(run, config), int(run.run_id[:4], 16) / 0xFFFF
        generations.append({**identity, **same, "exit_rate": share, "mean_depth": 1 - share / 2, **columns(run)})
        identity = {name: value for name, value in identity.items() if name in TOKENS.names}
        for at, token in enumerate("abc"):
            own = {"position": at, "decided": at > 0, "token_id": at, "token": token, "final_token_id": at}
            tokens.append({**identity, **of_token, **own, "kl": [share]})
    return ShardTables(pa.Table.from_pylist(generations, GENERATIONS), pa.Table.from_pylist(tokens, TOKENS))


def predicted(tokens: Iterable[tuple[str, bool, Predictions]]) -> list[pa.RecordBatch]:
    """Return tokens of runs, decided or not, in batches that end within a run. Layers record another token too."""
    schema = pa.schema([TOKENS.field(name) for name in ("run_id", *OF_TOP_PREDICTIONS)])
    rows = [
        {"run_id": run_id, "decided": decided, "top_prob": [[p, 0.01] for p, _ in layers] or None,
         "top_token_ids": [[likeliest, 8] for _, likeliest in layers] or None}
        for run_id, decided, layers in tokens
    ]  # fmt: skip
    return [pa.RecordBatch.from_pylist(part, schema) for part in (rows[:3], rows[3:], [])]
