"""Cutting the planned runs into shards; an actor executes one shard per call."""

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, zip_longest

from eexit.plan.runs import Run


@dataclass(frozen=True)
class Shard:
    """Runs that are executed and committed together, with the number of their failures.

    The results of a rehearsal are discarded: it only tests if its run still succeeds.
    """

    runs: tuple[Run, ...]
    failures: int = 0
    rehearsal: bool = False


def rows_for(n_runs: int, actors: int, at_most: int) -> int:
    """Return the number of runs per shard: `at_most`, or fewer if some actors would otherwise get no shard."""
    return max(1, min(at_most, math.ceil(n_runs / actors)))


def cut(runs: Iterable[Run], done: Collection[str], rows: int) -> Iterator[Shard]:
    """Yield shards of about `rows` runs; all configurations of one prompt and seed are in the same shard.

    The whole plan is cut before finished runs are removed, so that an uncommitted shard is the same after a restart.
    The rest of partly committed shards is collected in separate shards.
    """
    leftovers: list[Run] = []
    for shard in _cut_whole(runs, rows):
        left = [run for run in shard if run.run_id not in done]
        if len(left) == len(shard):
            yield Shard(tuple(shard))
            continue
        leftovers += left
        if len(leftovers) >= rows:
            yield Shard(tuple(leftovers))
            leftovers = []
    if leftovers:
        yield Shard(tuple(leftovers))


def halve(shard: Shard) -> list[Shard]:
    """Return the two halves of a shard; each is halved again at its first failure."""
    middle = len(shard.runs) // 2
    return [Shard(runs, failures=1) for runs in (shard.runs[:middle], shard.runs[middle:])]


def single_run_shards(shard: Shard) -> list[Shard]:
    """Return a shard for each run, prompts alternating, so that a bad prompt does not cause failures in a row."""
    runs_by_prompt: dict[str, list[Run]] = {}
    for run in shard.runs:
        runs_by_prompt.setdefault(run.prompt.id, []).append(run)
    rounds = zip_longest(*runs_by_prompt.values())
    return [Shard((run,), failures=1) for one_each in rounds for run in one_each if run is not None]


def _cut_whole(runs: Iterable[Run], rows: int) -> Iterator[list[Run]]:
    shard: list[Run] = []
    for _, group in groupby(runs, key=lambda run: (run.prompt.id, run.seed)):
        together = list(group)
        if shard and len(shard) + len(together) > rows:
            yield shard
            shard = []
        shard += together
    if shard:
        yield shard
