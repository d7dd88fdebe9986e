"""Inspection of a sweep's model and its memory in a subprocess, so that the driver never imports torch.

Imports take seconds. Reading all weights for their digest takes minutes for large models. Results are stored in the
user's cache and are valid until one of the model's files changes. A hub model is inspected each time, since its files
may change there.
"""

import gc
import hashlib
import json
import math
import os
import pickle
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Final, ParamSpec, TypeVar

from platformdirs import user_cache_path

from eexit.errors import UsageError, first_line
from eexit.model.sources import files_of, no_tokenizer, within
from eexit.output.atomic_files import write_cache_file
from eexit.output.text import format_bytes
from eexit.plan.artefact_check import refuse_misfit
from eexit.plan.artefacts import WEIGHTS
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.runs import count_runs
from eexit.plan.sweep_config import SweepConfig

FORMAT: Final = 4  # version of the cache's format and of the inspection
# Results depend on these fields of a sweep, on these packages, on the visible devices, and on the CPU, by which
# `--dtype auto` is resolved.
FIELDS: Final = ("model", "revision", "trust_remote_code", "dtype", "quantize", "adapter")
PACKAGES: Final = ("torch", "transformers")
DEVICES: Final = "CUDA_VISIBLE_DEVICES"
TOKENIZERS: Final = re.compile("token|vocab|merges|sp[im]|sentencepiece|tekken")  # in the names of their files
CPU_INFO = Path("/proc/cpuinfo")

CPU_CACHE_BYTES: Final = 4 << 30  # limit of the KV cache; on a GPU, free memory is the limit

CHARACTERS_PER_TOKEN = 4  # in English with most tokenizers
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of the weights, and of the KV cache (full-depth and early-exit passes) of a shard's requests.

    On CPUs, the KV cache has at most CPU_CACHE_BYTES at a time; on a GPU, as much as its memory holds.
    """

    weights: int
    cache: int
    row: int = 0  # KV cache of one request, which can't be split
    parts: Sequence[int] = ()  # bytes of one layer's weights and of the lm_head's, if known

    def of_node(self, gpus: float) -> int:
        """Return the memory that an actor needs on its node, in bytes; weights for a GPU are loaded there first."""
        return self.weights if gpus else self.weights + min(self.cache, CPU_CACHE_BYTES)

    def __str__(self) -> str:
        held = min(self.cache, CPU_CACHE_BYTES)
        whole, weights, here, most = map(format_bytes, (self.of_node(0), self.weights, held, self.cache))
        more = f" at a time, and on a GPU up to {most}" if self.cache > held else ""
        return f"{whole}: {weights} weights, {here} keys and values{more}"


@dataclass(frozen=True)
class InspectedModel:
    """Inspected model: description and memory in bytes; `weights` is None if its code can't run without weights."""

    description: dict[str, Any]
    weights: int | None = None
    token: int = 0  # KV cache of one token in the full-depth and early-exit passes
    context: int | None = None  # maximum length of a sequence; None without a limit
    parts: Sequence[int] = ()  # bytes of one layer's weights and of the lm_head's


class InspectionCache:
    """File cache of a sweep's inspected model, valid while the model's files are unchanged."""

    def __init__(self, config: SweepConfig):
        fields = [str(getattr(config, name)) for name in FIELDS]
        files = files_of(config.model)
        adapter = [] if config.adapter is None else within(Path(config.adapter).expanduser())
        machine = platform.node(), os.environ.get(DEVICES), _cpu()
        about = [FORMAT, *fields, *map(version, PACKAGES), *machine]
        self.state = [about, [_fingerprint(path) for path in [*files, *adapter]]]
        self.first = str(files[0].resolve()) if files else ""
        name = hashlib.sha256(json.dumps([fields, self.first]).encode()).hexdigest()
        self.path = user_cache_path("eexit") / "facts" / f"{name}.json"

    def read(self) -> InspectedModel | None:
        """Return the cached result, or None if there is none or a file has changed."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(self.path.read_bytes())
            return InspectedModel(**kept["found"]) if kept["state"] == self.state else None
        return None

    def keep(self, found: InspectedModel) -> None:
        """Write the result to the cache, and remove the results of models that no longer exist."""
        if not self.first:
            return
        write_cache_file(self.path, json.dumps({"of": self.first, "state": self.state, "found": asdict(found)}))
        with suppress(OSError, ValueError, TypeError, KeyError):
            for path in self.path.parent.glob("*.json"):
                if not Path(json.loads(path.read_bytes())["of"]).exists():
                    path.unlink()


def _cpu() -> str:
    """Return the CPU's instruction flags if the system lists them, since machines may share a name and a cache."""
    with suppress(OSError):
        listed = re.search(r"^(?:flags|Features)\s*: (.*)$", CPU_INFO.read_text(), re.MULTILINE)
        return listed[1] if listed else ""
    return platform.processor()


def _fingerprint(path: Path) -> list[int | str]:
    """Return facts that change with a file; the inode tells apart files of the same path, size and time."""
    found = path.stat()
    return [str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


# Description, exitable layers, and memory of an actor.
ModelFacts = tuple[dict[str, Any], tuple[int, ...], MemoryEstimate | None]


@contextmanager
def call_in_subprocess(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Iterator[Callable[[], T]]:
    """Call a function in a new process, and yield a function that waits for the result.

    The process frees its memory when it ends. It ends when this process dies, and is killed at the end of the context.
    The result must have plain types, since unpickling a class would import its module here. Waiting raises `UsageError`
    for any exception of the function.
    """
    main = subprocess_main.__name__
    command = [sys.executable, "-P", "-c", f"from {__name__} import {main}; {main}()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            with suppress(BrokenPipeError):  # the process is gone, which waiting for its result reports
                pickle.dump((function, args, kwargs), process.stdin)
                process.stdin.flush()
            yield partial(_result, process.stdout)
        finally:
            process.kill()


def _result(answers: IO[bytes]) -> Any:
    try:
        result, error = pickle.load(answers)
    except EOFError as gone:
        raise UsageError("the process that inspected the model was killed: is there enough memory?") from gone
    if error:
        raise UsageError(error)
    return result


def subprocess_main() -> None:
    """Call the function from standard input, write its result to standard output, and exit; runs in the subprocess."""
    gc.disable()  # imports create 400,000 objects, which all live until this process ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes, and the parent ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to standard error instead
    try:
        function, args, kwargs = pickle.load(sys.stdin.buffer)
    except EOFError:
        return
    threading.Thread(target=_end_with_the_first_process, daemon=True).start()
    try:
        done: tuple[Any, str] = (function(*args, **kwargs), "")
    except UsageError as error:
        done = (None, str(error))
    except Exception as error:
        done = (None, f"the model can't be inspected: {type(error).__name__}: {first_line(error)}")
    pickle.dump(done, answers)
    answers.flush()
    os._exit(0)  # without closing standard input, which the thread reads


def _end_with_the_first_process() -> None:
    sys.stdin.buffer.read()  # returns once the parent has closed the pipe
    os._exit(1)


def inspect_model(config: SweepConfig, rows_per_shard: int) -> ModelFacts:
    """Return a sweep's model description, its exitable layers, and an actor's memory for the largest shard.

    Inspects the model in a subprocess unless the result is cached. Raise `UsageError` for an unusable model, layer or
    artefact.
    """
    with start_inspection(inspect_model, config, rows_per_shard) as facts:
        return facts()


def facts_here(config: SweepConfig, rows_per_shard: int) -> ModelFacts:
    """Return the result of `inspect_model` without a subprocess, importing torch unless it is cached."""
    kept = InspectionCache(config)
    found = kept.read()
    if found is None:
        _refuse_without_tokenizer(config.model)
        kept.keep(found := InspectedModel(*_find(config.model_copy(update={"prompts": config.prompts[:1]}))))
    return _facts(config, rows_per_shard, found)


@contextmanager
def start_inspection(
    inspect: Callable[[SweepConfig, int], ModelFacts], config: SweepConfig, rows_per_shard: int
) -> Iterator[Callable[[], ModelFacts]]:
    """Start an inspection of a sweep's model, and yield a function that waits for its result.

    `inspect_model` starts at once in a subprocess unless its result is cached; any other `inspect` runs on request.
    """
    if inspect is not inspect_model:
        yield partial(inspect, config, rows_per_shard)
        return
    kept = InspectionCache(config)
    if known := kept.read():
        facts = _facts(config, rows_per_shard, known)
        yield lambda: facts
        return
    _refuse_without_tokenizer(config.model)
    few = config.model_copy(update={"prompts": config.prompts[:1]})
    with call_in_subprocess(_find, few) as result:

        def result_facts() -> ModelFacts:
            kept.keep(found := InspectedModel(*result()))
            return _facts(config, rows_per_shard, found)

        yield result_facts


def _refuse_without_tokenizer(model: str) -> None:
    names = [path.name.lower() for path in files_of(model)]
    if Path(model).expanduser().is_dir() and not any(map(TOKENIZERS.search, names)):
        raise no_tokenizer(model)


def characters(config: SweepConfig) -> list[int]:
    """Return the number of characters of each prompt, including its system prompt and its prefiller."""
    return [
        len(prompt.prompt) + len(prompt.system or config.system) + len(prompt.prefiller or "")
        for prompt in config.prompts
    ]


def _facts(config: SweepConfig, rows_per_shard: int, found: InspectedModel) -> ModelFacts:
    """Return an inspected model's facts for this sweep. Raise `UsageError` for misfitting layers or artefacts."""
    layers = resolve_exitable_layers(config, found.description["n_layers"])
    refuse_misfit(config, found.description, layers)
    return found.description, layers, _memory(config, min(rows_per_shard, count_runs(config)), found)


def _memory(config: SweepConfig, rows: int, found: InspectedModel) -> MemoryEstimate | None:
    """Estimate an actor's memory for `rows` requests of the longest prompt, without activations and libraries."""
    if found.weights is None:
        return None
    longest = math.ceil(max(characters(config)) / CHARACTERS_PER_TOKEN)
    row = found.token * int(min(longest + config.most_new_tokens, found.context or math.inf))
    maps = Path(config.kv_maps).expanduser().joinpath(WEIGHTS).stat().st_size if config.kv_maps else 0
    return MemoryEstimate(found.weights + maps, row * rows, row, tuple(found.parts))


def _find(config: SweepConfig) -> tuple[Any, ...]:
    """Return the fields of `InspectedModel`, without loading weights. Raise `UsageError` for an unusable model."""
    from eexit.plan.model_description import describe_model, estimate_memory

    model = asdict(describe_model(config))
    try:
        return model, *estimate_memory(config)
    except RuntimeError:  # raised by operators that need a tensor's values
        return (model,)
