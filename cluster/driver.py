"""The loop that feeds shards to actors until every planned run has landed, whatever dies meanwhile.

Only counts come back; a shard's Parquet files are written where it was done. No actor is ever waited for: those that
are ready are fed, those that die are replaced, and the loop ends with the last landed run.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.actor import MakeGenerator, SweepActor, model_generator
from cluster.breaker import Breaker, SweepStopped
from cluster.landing import LandingError, Tally, clear_debris, land, landed_tally
from cluster.pool import Pool
from cluster.progress import Display, Progress
from cluster.shards import Shard, split
from cluster.store import open_store
from eexit.config import SweepConfig, UsageError
from eexit.generator import error_results

TRIES = 2  # a shard that fails so often is split into single runs; a single run then becomes an error row
DEPTH = 2  # shards with one actor: the one at hand, and the next
PLENTY = 4  # the next one is given out early only while so many times the runs in flight are left
SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(eq=False)
class _Worker:
    """An actor as the driver sees it."""

    handle: Any
    loading: Any  # what its load() will answer; None once it has
    shards: dict[Any, Shard] = field(default_factory=dict)  # by what its do() will answer; in the order it does them
    asked: Any = None  # what its progress() will answer; None when it wasn't asked
    in_flight: int = 0


class Driver:
    """One sweep's loop: `Driver(...).drive()`."""

    def __init__(
        self,
        config: SweepConfig,
        out: str,
        shards: Iterator[Shard],
        n_planned: int,
        n_done: int,
        pool: Pool,
        display: Display,
        device: str = "auto",
        make_generator: MakeGenerator = model_generator,
    ) -> None:
        """`shards` hold the `n_planned - n_done` runs that haven't landed in `out`; they are taken when needed."""
        self._config = config
        self._store = open_store(out)
        self._shards = shards
        self._planned, self._done_before = n_planned, n_done
        self._pool = pool
        self._display = display
        self._again: deque[Shard] = deque()
        self._workers: list[_Worker] = []
        self._tally = Tally()
        self._breaker = Breaker()
        self._looked = 0.0
        # Runs bring their prompts; an actor has no use for all the others.
        lean = config.model_copy(update={"prompts": config.prompts[:1]})
        self._arguments = (make_generator, lean, out, device)

    def drive(self) -> Tally:
        """Land every run; returns what they came to.

        Raises `UsageError` if the model can't be loaded, and `SweepStopped` when going on would burn the grid.
        """
        try:
            self._workers = [self._hire() for _ in range(min(self._pool.actors, self._left))]
            while self._left:
                self._feed()
                self._settle_one()
                self._look()
            self._display.show(self._progress(), last=True)
        finally:
            for worker in self._workers:
                ray.kill(worker.handle)
        clear_debris(self._store)
        return self._tally

    @property
    def _left(self) -> int:
        return self._planned - self._done_before - self._tally.runs

    def _hire(self) -> _Worker:
        remote: Any = ray.remote  # its type knows no concurrency groups
        as_actor = remote(
            num_cpus=self._pool.cpus,
            num_gpus=self._pool.gpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"progress": 1},
        )
        handle = as_actor(SweepActor).remote(*self._arguments)
        return _Worker(handle, loading=handle.load.remote())

    def _feed(self) -> None:
        """Give every ready actor a shard, and a second one as long as plenty are left."""
        for depth in range(DEPTH):
            given = sum(len(shard.runs) for worker in self._workers for shard in worker.shards.values())
            if depth and self._left < PLENTY * given:
                return
            for worker in self._workers:
                if worker.loading is None and len(worker.shards) == depth:
                    shard = self._next_shard()
                    if shard is None:
                        return
                    worker.shards[worker.handle.do.remote(shard.runs)] = shard

    def _next_shard(self) -> Shard | None:
        # New ones first: when everything fails, the breaker finds that out before a shard is done run by run.
        shard = next(self._shards, None)
        return shard or (self._again.popleft() if self._again else None)

    def _settle_one(self) -> None:
        """Wait for one answer, or for the time to look at progress, and act on it."""
        owners = {ref: worker for worker in self._workers for ref in (worker.loading, *worker.shards) if ref}
        answered, _ = ray.wait(list(owners), timeout=SECONDS_BETWEEN_LOOKS)
        for ref in answered:
            worker = owners[ref]
            try:
                answer = ray.get(ref)
            except RayTaskError as error:
                self._raised(worker, ref, error)
            except RayError as error:
                self._lost(worker, error)
            else:
                self._answered(worker, ref, answer)

    def _answered(self, worker: _Worker, ref: Any, tally: Tally) -> None:
        if ref == worker.loading:
            worker.loading = None
        else:
            del worker.shards[ref]
            self._landed(tally)

    def _landed(self, tally: Tally) -> None:
        self._tally += tally
        self._breaker.reset()

    def _raised(self, worker: _Worker, ref: Any, error: RayTaskError) -> None:
        """The actor lives, and its call ended in an exception."""
        cause = error.cause if isinstance(error.cause, Exception) else error
        reason = f"{type(cause).__name__}: {cause}"
        if ref == worker.loading:
            raise cause if isinstance(cause, UsageError) else SweepStopped(f"the model can't be loaded: {reason}")
        shard = worker.shards.pop(ref)
        if isinstance(cause, LandingError):
            self._breaker.count("landing", str(cause))
            self._again.append(shard)
        else:
            self._failed(shard, type(cause).__name__, reason)

    def _lost(self, worker: _Worker, error: RayError) -> None:
        """The actor's process is gone, or out of reach: replace it, and find out which of its shards landed."""
        ray.kill(worker.handle)
        self._workers.remove(worker)
        preempted = isinstance(error, RayActorError) and error.preempted
        unlanded = []
        for shard in worker.shards.values():
            if tally := landed_tally(self._store, shard.runs):
                self._landed(tally)
            else:
                unlanded.append(shard)
        if worker.loading and not preempted:
            self._breaker.count("loading", f"an actor died while it loaded the model: {_first_line(error)}")
        for shard in unlanded:
            # It did them in order: only the first can be what it died of.
            if shard is unlanded[0] and not preempted:
                self._failed(shard, "death", f"the process that did it died: {_first_line(error)}")
            else:
                self._again.append(shard)
        if self._left:
            self._workers.append(self._hire())

    def _failed(self, shard: Shard, kind: str, reason: str) -> None:
        """Try it again, then its runs one by one, then write down that this run can't be done."""
        clear_debris(self._store, shard.runs)
        self._breaker.count(kind, reason, suspect=shard.runs[0].prompt.id)
        failures = shard.failures + 1
        if failures < TRIES:
            self._again.append(replace(shard, failures=failures))
        elif len(shard.runs) > 1:
            self._again.extend(split(shard))
        else:
            try:
                tally = land(self._store, shard.runs, error_results(shard.runs, self._config, reason))
            except LandingError as error:
                raise SweepStopped(str(error)) from error
            self._landed(tally)

    def _look(self) -> None:
        """About once a second: ask the actors how far their shards are, and show it."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        for worker in self._workers:
            if worker.asked is not None and ray.wait([worker.asked], timeout=0)[0]:
                try:
                    worker.in_flight = ray.get(worker.asked)
                except RayError:
                    worker.in_flight = 0  # its shard's own call tells what happened
                worker.asked = None
            if worker.asked is None and worker.shards:
                worker.asked = worker.handle.progress.options(concurrency_group="progress").remote()
        self._display.show(self._progress())

    def _progress(self) -> Progress:
        return Progress(
            done=self._done_before + self._tally.runs,
            planned=self._planned,
            done_before=self._done_before,
            errors=self._tally.errors,
            tokens_landed=self._tally.tokens,
            tokens_in_flight=sum(worker.in_flight for worker in self._workers if worker.shards),
            max_new_tokens=self._config.max_new_tokens,
            actors_ready=sum(worker.loading is None for worker in self._workers),
            actors_wanted=len(self._workers),
        )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
