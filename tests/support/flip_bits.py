"""Flip a single bit in the files of a finished sweep, many times: no reader may accept changed data.

    python tests/support/flip_bits.py          400 flips, each in a fresh copy
    python tests/support/flip_bits.py 5000

After each flip, the sweep is resumed and reported. Each of these may report the damage, or read the original
data if the bit has no effect. None may read other data or end in a traceback.
"""

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from scripted import rows_of, sweep_of

from eexit.errors import UsageError
from eexit.plan.runs import plan_runs
from eexit.results.store.commit import commit, repair_store
from eexit.results.store.extend import manifest_written
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import make_manifest, read_manifest
from reports.read.sweep import read_sweep

FLIPS = 400
NOTICED = "noticed"


def make_sweep(folder: Path) -> None:
    """Write four shards of nine runs."""
    config = sweep_of("a-model", "one", "two", "three", "four")
    runs, store = list(plan_runs(config)), open_store(folder)
    with manifest_written(store, make_manifest(config, {"name": "a-model", "n_layers": 30, "dtype": "float32"}, [5])):
        for start in range(0, len(runs), 9):
            some = runs[start : start + 9]
            commit(store, some, rows_of(some, config))


def resumed(folder: Path) -> object:
    """Return what a resumed sweep reads."""
    store = open_store(folder)
    manifest = read_manifest(store)
    found, lines = repair_store(store)
    return NOTICED if lines else (manifest, found)


def reported(folder: Path) -> object:
    """Return what a report reads."""
    sweep = read_sweep(str(folder))
    tables = (sweep.tokens.to_table(), sweep.texts.to_table())
    return NOTICED if sweep.left_out else (sweep.about, sweep.generations.to_csv(), *(t.to_pylist() for t in tables))


READERS: dict[str, Callable[[Path], object]] = {"resume": resumed, "report": reported}


def read(reader: Callable[[Path], object], folder: Path) -> object:
    try:
        return reader(folder)
    except UsageError as error:
        return NOTICED if "\n" not in str(error) else str(error)


def flip_bits(folder: Path, flips: int, seed: int = 0) -> Counter[tuple[str, str]]:
    """Make a sweep in `folder`, flip single bits of copies, and return counts by reader and outcome."""
    whole, flipped = folder / "whole", folder / "flipped"
    make_sweep(whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    expected = {name: read(reader, whole) for name, reader in READERS.items()}
    assert NOTICED not in expected.values()
    draw, outcomes = Random(seed), Counter[tuple[str, str]]()
    for _ in range(flips):
        file = draw.choice(files)
        content = bytearray((whole / file).read_bytes())
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        for name, reader in READERS.items():
            shutil.copytree(whole, flipped)
            (flipped / file).write_bytes(content)
            found = read(reader, flipped)
            shutil.rmtree(flipped)
            outcome = NOTICED if found == NOTICED else "the same" if found == expected[name] else "OTHER DATA"
            outcomes[name, outcome] += 1
            if outcome == "OTHER DATA":
                print(f"{name} did not notice bit {bit} of {file} (seed {seed})")
    return outcomes


def main() -> int:
    flips = int(sys.argv[1]) if len(sys.argv) > 1 else FLIPS
    with tempfile.TemporaryDirectory() as folder:
        outcomes = flip_bits(Path(folder), flips)
    for (name, outcome), count in sorted(outcomes.items()):
        print(f"{name:10}  {outcome:10}  {count:,} of {flips:,}")
    return int(any(outcome == "OTHER DATA" for _, outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
