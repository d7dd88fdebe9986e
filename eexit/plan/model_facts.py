"""Describing a sweep's model and its memory in a separate process, so that the driver never imports torch.

Looking at a model imports what takes seconds, and reads all its weights for their digest, which takes minutes for large
ones. What was found is kept in the user's cache until one of the model's files changes. A model of the hub is looked at
each time, since its files may change there.
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
from eexit.output.whole_files import keep
from eexit.plan.artefact_fit import refuse_misfit
from eexit.plan.artefacts import WEIGHTS
from eexit.plan.config import SweepConfig
from eexit.plan.exit_layers import resolve_exitable_layers
from eexit.plan.runs import count_runs

FORMAT: Final = 3  # of what is kept, and of how it is found
# What is found depends on these fields of a sweep, on these packages, on the devices that a process may use, and on its
# CPU: what `--dtype auto` becomes does.
FIELDS: Final = ("model", "revision", "trust_remote_code", "dtype", "quantize", "adapter")
PACKAGES: Final = ("torch", "transformers")
DEVICES: Final = "CUDA_VISIBLE_DEVICES"
TOKENIZERS: Final = re.compile("token|vocab|merges|sp[im]|sentencepiece|tekken")  # what their files' names have
CPU_INFO = Path("/proc/cpuinfo")

CPU_CACHE_BYTES: Final = 4 << 30  # for keys and values; on a GPU, they depend on its free memory

CHARACTERS_PER_TOKEN = 4  # of English, in most tokenizers
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights, and of the keys and values (teacher's and student's) of a shard's rows.

    On CPUs, at most CPU_CACHE_BYTES of keys and values exist at a time; on a GPU, as many as its memory holds.
    """

    weights: int
    cache: int
    row: int = 0  # keys and values of one row, which must exist at the same time
    parts: Sequence[int] = ()  # bytes of a layer's weights, and of the head's, where they are known

    def of_node(self, gpus: float) -> int:
        """Bytes that an actor needs of its node's memory: also with a GPU, weights are loaded there first."""
        return self.weights if gpus else self.weights + min(self.cache, CPU_CACHE_BYTES)

    def __str__(self) -> str:
        held = min(self.cache, CPU_CACHE_BYTES)
        more = f" at a time, and on a GPU up to {size(self.cache)}" if self.cache > held else ""
        return f"{size(self.of_node(0))}: {size(self.weights)} weights, {size(held)} keys and values{more}"


@dataclass(frozen=True)
class ModelFound:
    """A model's description, and what it needs in memory, in bytes; None where its code can't run without weights."""

    description: dict[str, Any]
    weights: int | None = None
    token: int = 0  # keys and values of one token, the teacher's and the student's
    context: int | None = None  # tokens that a row may have; None without a limit
    parts: Sequence[int] = ()  # bytes of a layer's weights, and of the head's


class KeptFacts:
    """What is kept about a sweep's model, as long as its files are those that were looked at."""

    def __init__(self, config: SweepConfig):
        fields = [str(getattr(config, name)) for name in FIELDS]
        files = files_of(config.model)
        adapter = [] if config.adapter is None else within(Path(config.adapter).expanduser())
        machine = platform.node(), os.environ.get(DEVICES), _cpu()
        about = [FORMAT, *fields, *map(version, PACKAGES), *machine]
        self.state = [about, [_state(path) for path in [*files, *adapter]]]
        self.first = str(files[0].resolve()) if files else ""
        name = hashlib.sha256(json.dumps([fields, self.first]).encode()).hexdigest()
        self.path = user_cache_path("eexit") / "facts" / f"{name}.json"

    def read(self) -> ModelFound | None:
        """What was found before, if no file has changed since."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(self.path.read_bytes())
            return ModelFound(**kept["found"]) if kept["state"] == self.state else None
        return None

    def keep(self, found: ModelFound) -> None:
        """Keep this, and remove what was kept about models that are gone."""
        if not self.first:
            return
        keep(self.path, json.dumps({"of": self.first, "state": self.state, "found": asdict(found)}))
        with suppress(OSError, ValueError, TypeError, KeyError):
            for path in self.path.parent.glob("*.json"):
                if not Path(json.loads(path.read_bytes())["of"]).exists():
                    path.unlink()


def _cpu() -> str:
    """The instructions of this machine's CPU, where the system lists them: machines may share a name and a cache."""
    with suppress(OSError):
        listed = re.search(r"^(?:flags|Features)\s*: (.*)$", CPU_INFO.read_text(), re.MULTILINE)
        return listed[1] if listed else ""
    return platform.processor()


def _state(path: Path) -> list[int | str]:
    """What changes with a file: even one of the same size and time, unpacked in its place, is another inode."""
    found = path.stat()
    return [str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


ModelFacts = tuple[dict[str, Any], tuple[int, ...], Memory | None]  # description, exitable layers, memory of an actor


@contextmanager
def asking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Iterator[Callable[[], T]]:
    """Call a function in a fresh process, and go on meanwhile: what is yielded waits for the result.

    The process frees its memory when it ends, ends if this one dies, and is killed when the context ends. The result
    must be of plain types: unpickling a class would import its module here, and what that imports. Whatever the
    function raises becomes a `UsageError`.
    """
    command = [sys.executable, "-P", "-c", f"from {__name__} import answer; answer()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            with suppress(BrokenPipeError):  # the process is gone: waiting for its result says so
                pickle.dump((function, args, kwargs), process.stdin)
                process.stdin.flush()
            yield partial(_result, process.stdout)
        finally:
            process.kill()


def _result(answers: IO[bytes]) -> Any:
    try:
        result, error = pickle.load(answers)
    except EOFError as gone:
        raise UsageError("the process that looked at the model was killed: is there memory enough?") from gone
    if error:
        raise UsageError(error)
    return result


def answer() -> None:
    """In the other process: call the function from standard input, and write its result to standard output."""
    gc.disable()  # imports make 400,000 objects, which all stay until this process ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes, and the first one ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to standard error
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
        done = (None, f"the model can't be looked at: {type(error).__name__}: {first_line(error)}")
    pickle.dump(done, answers)
    answers.flush()
    os._exit(0)  # the thread reads standard input, which Python would want to close


def _end_with_the_first_process() -> None:
    sys.stdin.buffer.read()  # returns once the first process has closed the pipe
    os._exit(1)


def look_at_model(config: SweepConfig, rows_per_shard: int) -> ModelFacts:
    """A sweep's model, its exitable layers, and the memory that an actor needs for the largest shard.

    Raises `UsageError`.
    """
    with looking(look_at_model, config, rows_per_shard) as facts:
        return facts()


def facts_here(config: SweepConfig, rows_per_shard: int) -> ModelFacts:
    """The same in this process, which imports what it takes: one that has loaded a model has done so anyway."""
    kept = KeptFacts(config)
    found = kept.read()
    if found is None:
        _refuse_without_tokenizer(config.model)
        kept.keep(found := ModelFound(*_find(config.model_copy(update={"prompts": config.prompts[:1]}))))
    return _facts(config, rows_per_shard, found)


@contextmanager
def looking(
    look: Callable[[SweepConfig, int], ModelFacts], config: SweepConfig, rows_per_shard: int
) -> Iterator[Callable[[], ModelFacts]]:
    """What `look` says of a sweep's model, once it is asked for; `look_at_model` is at work from now on.

    A model whose files have not changed since it was looked at is not looked at again.
    """
    if look is not look_at_model:
        yield partial(look, config, rows_per_shard)
        return
    kept = KeptFacts(config)
    if known := kept.read():
        facts = _facts(config, rows_per_shard, known)
        yield lambda: facts
        return
    _refuse_without_tokenizer(config.model)
    few = config.model_copy(update={"prompts": config.prompts[:1]})
    with asking(_find, few) as result:

        def told() -> ModelFacts:
            kept.keep(found := ModelFound(*result()))
            return _facts(config, rows_per_shard, found)

        yield told


def _refuse_without_tokenizer(model: str) -> None:
    """Raises `UsageError` for a model folder with none of the files that tokenizers are read from, by their names."""
    names = [path.name.lower() for path in files_of(model)]
    if Path(model).expanduser().is_dir() and not any(map(TOKENIZERS.search, names)):
        raise no_tokenizer(model)


def characters(config: SweepConfig) -> list[int]:
    """The number of characters of each prompt, with its system prompt and the prefiller that it brings."""
    return [
        len(prompt.prompt) + len(prompt.system or config.system) + len(prompt.prefiller or "")
        for prompt in config.prompts
    ]


def _facts(config: SweepConfig, rows_per_shard: int, found: ModelFound) -> ModelFacts:
    """What was found of a sweep's model, with what follows for the sweep. Raises `UsageError`."""
    layers = resolve_exitable_layers(config, found.description["n_layers"])
    refuse_misfit(config, found.description, layers)
    return found.description, layers, _memory(config, min(rows_per_shard, count_runs(config)), found)


def _memory(config: SweepConfig, rows: int, found: ModelFound) -> Memory | None:
    """The memory of an actor with a shard of `rows` rows of the longest prompt, and state maps as they lie on disk.

    Activations and the device's libraries need more on top; with dtype auto, the dtype is that of this machine.
    """
    if found.weights is None:
        return None
    longest = math.ceil(max(characters(config)) / CHARACTERS_PER_TOKEN)
    row = found.token * int(min(longest + config.most_new_tokens, found.context or math.inf))
    maps = Path(config.state).expanduser().joinpath(WEIGHTS).stat().st_size if config.state else 0
    return Memory(found.weights + maps, row * rows, row, tuple(found.parts))


def _find(config: SweepConfig) -> tuple[Any, ...]:
    """The fields of `ModelFound`, without loading weights. Raises `UsageError`."""
    from eexit.plan.model_description import describe_model, estimate_memory

    model = asdict(describe_model(config))
    try:
        return model, *estimate_memory(config)
    except RuntimeError:  # raised by operators that need a tensor's values
        return (model,)


def size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
