"""What stands around a sweep's runs, wherever they are done: what is refused before, and what has landed after."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eexit.errors import SweepStopped, UsageError
from eexit.output.locations import shown
from eexit.output.progress import Display
from eexit.output.text import counted, precision, some, unapplied_sentence
from eexit.plan.config import SweepConfig
from eexit.plan.runs import ERROR, configurations, count_runs, same_for_every_seed, same_in_several_modes
from eexit.results.files import list_files
from eexit.results.landed import read_columns
from eexit.results.layout import (
    MANIFEST,
    REPORT,
    REPORT_HEAD_BYTES,
    SIDE_FILES,
    Manifest,
    is_report,
    is_side_file,
    side_folder_name,
)
from eexit.results.means import figures
from eexit.results.store.folder import Store, open_store
from eexit.results.store.growth import grown, growth, stored_config, written
from eexit.results.store.lease import Lease, hold
from eexit.results.store.manifest import (
    LostManifestError,
    make_manifest,
    read_manifest,
    refuse_other_model,
    refuse_other_runs,
    with_grid,
)
from eexit.results.store.writing_shards import Survey, Tally, clear_debris, remove_errors, take_stock
from eexit.results.whereabouts import FOR_RESULTS, refuse_inside


@dataclass(frozen=True)
class Summary:
    """The outcome of a sweep.

    `out` is an absolute path or a URI. `done` runs have landed with a result, and `errors` runs with an error; together
    they are all runs of `config`. `tally` counts the runs that this call has landed, which are none if nothing was left
    to do. `model` and `dtype_asked` are those of `sweep.json`.
    """

    config: SweepConfig
    out: str
    model: Mapping[str, Any]
    dtype_asked: str
    done: int
    errors: int
    tally: Tally

    @property
    def precision(self) -> str:
        """What the model computes in, as users see it."""
        return precision(self.model, self.dtype_asked)

    @property
    def of_errors(self) -> str:
        """Return how many runs failed, and why the first of them did, read from the results."""
        runs = read_columns(open_store(self.out), ["status", "error"])
        reason = runs.filter(pc.field("status") == ERROR)["error"][0].as_py()
        runs = counted(self.done + self.errors, "run")
        return f"{f'{self.errors:,} of {runs}' if self.done else f'all {runs}'} are errors, such as: {reason}"

    def figures(self) -> list[dict[str, Any]]:
        """The runs, different runs, errors and mean measures of each configuration, read from the results.

        `by_kind` has accuracy, cut texts, disagreement, and what is saved and lost beside `normal`, by kind of prompt.
        """
        prompts = [asdict(prompt) for prompt in self.config.prompts]
        planned, same = configurations(self.config), same_for_every_seed(self.config)
        return figures(open_store(self.out), planned, same, prompts)


@dataclass(frozen=True)
class Remaining:
    """What is left of a sweep: whoever does it holds the lease. `config` has the dtype that it is done in."""

    config: SweepConfig
    store: Store
    lease: Lease
    found: Survey  # what has landed


def read_held(store: Store, config: SweepConfig, out: str, say: Callable[[str], None]) -> Manifest | None:
    """The manifest that what has landed in `store`, which messages call `out`, grows to by `config`, or None if that
    begins there. `say` is told by what it grows.

    Raises `UsageError` if no sweep can be written there, or not this one.
    """
    if not store.is_local:
        store.probe()  # first, since whatever else asks a place that is out of reach waits for a minute
    refuse_inside(store, f"--out {shown(out)}", *FOR_RESULTS)
    if store.is_local:
        store.probe()
    _refuse_foreign(store)
    try:
        held = read_manifest(store)
    except LostManifestError as lost:
        print(refuse_other_runs(store, lost, config), file=sys.stderr)
        return None
    if not held:
        return None
    whole = grown(store, held, config)
    if by := growth(stored_config(store, held), whole):
        say(f"{shown(out)} grows by {by}")
    return with_grid(held, whole)


def manifest_for(
    store: Store,
    held: Manifest | None,
    config: SweepConfig,
    model: Mapping[str, Any],
    exitable_layers: Sequence[int],
    dtype: str,
) -> Manifest:
    """The manifest of a sweep in `dtype`, which `config` has or leaves to the machine, with the grid of `held` if any.

    Raises `UsageError` if that is of another model.
    """
    fixed = (stored_config(store, held) if held else config).model_copy(update={"dtype": dtype})
    manifest = make_manifest(fixed, {**model, "dtype": dtype}, exitable_layers, config.dtype)
    if held:
        refuse_other_model(store, held, manifest)
    return manifest


def do_what_is_left(
    manifest: Manifest, location: str, out: str, display: Display, do: Callable[[Remaining], Tally]
) -> Summary:
    """Have `do` land all runs of a sweep that have not landed in `location`, which messages call `out`.

    `manifest` is that of the sweep, whose dtype is that of all runs. Raises `UsageError`, and `SweepStopped` when going
    on would only fail.
    """
    store = open_store(location)
    with hold(store) as lease, written(store, manifest) as config:
        n_planned = count_runs(config)
        found, said = _look_through(store, [])
        tally = Tally()
        if len(found.done) == n_planned:
            display.say(f"nothing is left to do: {counted(n_planned, 'run')} landed in {shown(out)}")
        else:
            if line := _same_texts(config):
                display.say(line)
            if unapplied := _unapplied(manifest, config):
                display.say(unapplied_sentence(unapplied, "a sweep"))
            tally = do(Remaining(config, store, lease, found))
            found, _ = _look_through(store, said)
    missing = n_planned - len(found.done) - found.n_errors
    if missing:
        raise SweepStopped(f"{missing:,} runs that had landed are damaged or gone")
    return Summary(config, location, manifest.model, manifest.dtype_asked, len(found.done), found.n_errors, tally)


def _same_texts(config: SweepConfig) -> str:
    """Return a line that names rules whose texts are the same in several modes; empty without any."""
    alike = [f"{rule} in {', '.join(modes)}" for rule, modes in same_in_several_modes(config).items()]
    if not alike:
        return ""
    return f"all tokens exit at one layer, so that these have the same texts, decoded once: {'; '.join(some(alike, 3))}"


def _unapplied(manifest: Manifest, config: SweepConfig) -> dict[str, Any]:
    """Return the values of the model's generation_config that the sweep does not apply."""
    applied = {"do_sample": config.temperature > 0, "temperature": config.temperature, "top_p": config.top_p}
    values: Mapping[str, Any] = manifest.model.get("generation_config") or {}
    return {name: value for name, value in values.items() if name not in applied or applied[name] != value}


def clear_the_way(left: Remaining, out: str, display: Display) -> int:
    """Remove debris, and errors, whose runs are tried again; say what has landed, and return how many runs have."""
    clear_debris(left.store)
    retried, n_done = remove_errors(left.store, left.found.with_errors), len(left.found.done)
    if n_done or retried:
        n_planned = count_runs(left.config)
        display.say(f"{n_done:,} of {n_planned:,} runs are in {shown(out)}; {counted(retried, 'error')} tried again")
    return n_done


def put_manifest_back(store: Store, manifest: bytes | None, say: Callable[[str], None]) -> None:
    """Write a missing manifest again: without it, results can't be read, and actors refuse to load."""
    with suppress(OSError, pa.ArrowException):  # if the location can't be written to, landing finds out
        if manifest and not store.has(MANIFEST):
            store.publish(MANIFEST, manifest)
            say(f"{MANIFEST} was gone and is put back")


def _refuse_foreign(store: Store) -> None:
    """Raise `UsageError` for a file of others where the sweep's files belong: it would be replaced, or end all reading.

    `pd.read_parquet` reads whatever is in a table's folder.
    """
    if foreign := list_files(store).foreign:
        raise UsageError(
            f"{store.path(foreign[0])} is not one of the sweep's files, and tables can't be read with it: choose "
            "another --out, or move it elsewhere"
        )
    beside = [name for name in store.names(side_folder_name(REPORT)) if PurePosixPath(name).match(SIDE_FILES)]
    for name, is_ours in ((REPORT, is_report), *((name, is_side_file) for name in beside)):
        head = store.read(name, REPORT_HEAD_BYTES)
        if head is not None and not is_ours(head):
            raise UsageError(f"{store.path(name)} is not a report's file: choose another --out, or move it elsewhere")


def _look_through(store: Store, said: Sequence[str]) -> tuple[Survey, Sequence[str]]:
    """What has landed undamaged, and messages about repairs; prints those that were not printed before."""
    found, lines = take_stock(store)
    for line in lines:
        if line not in said:
            print(line, file=sys.stderr)
    return found, lines
