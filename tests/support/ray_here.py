"""A Ray in this process, for tests of decisions about actors: a call is done when its result is waited for.

Actors are objects, so that none takes seconds to start. Their arguments and results are pickled, as between processes,
and `os._exit` ends an actor. Tests that do something to a process, such as send a signal, need the fixture `local_ray`.
"""

import gc
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError

import cluster.actor
import cluster.driver
import cluster.session
from cluster.studies import actors

DIED = "The actor died.\nThe actor is dead because its worker process has died."


class ActorCall(Future[Any]):
    """A call of an actor, and the reference to its answer; calls `aside` do not wait for others."""

    def __init__(self, actor: "Actor", method: str, arguments: tuple[Any, ...], aside: bool) -> None:
        super().__init__()
        self.actor, self.method, self.arguments, self.aside = actor, method, arguments, aside


Calls = list[ActorCall]


@dataclass(eq=False)
class Actor:
    """An actor, and the driver's handle of it. It comes up once there are CPUs for it, and does its calls in order."""

    here: "RayHere"
    make: Callable[[], Any]
    cpus: float
    name: str
    calls: deque[ActorCall] = field(default_factory=deque)
    made: Any = None
    is_up: bool = False
    is_dead: bool = False

    def __getattr__(self, method: str) -> Any:
        """Return a method of the handle. Calls in a concurrency group are aside."""
        aside = SimpleNamespace(remote=partial(self.ask, method, True))
        return SimpleNamespace(remote=partial(self.ask, method, False), options=lambda concurrency_group: aside)

    def ask(self, method: str, aside: bool, *arguments: Any) -> ActorCall:
        call = ActorCall(self, method, copied(arguments), aside)
        if self.is_dead:
            call.set_exception(RayActorError(error_msg=DIED))
        elif not aside:
            self.calls.append(call)
        return call

    def comes_up(self) -> bool:
        if not self.is_up and not self.is_dead and self.cpus <= self.here.free:
            self.here.free, self.is_up = self.here.free - self.cpus, True
        return self.is_up

    def answer(self, call: ActorCall) -> None:
        self.here.at_work = self
        try:
            self.made = self.made or self.make()
            call.set_result(copied(getattr(self.made, call.method)(*call.arguments)))
        except SystemExit:
            self.calls.appendleft(call)
            self.end()
        except Exception as error:
            raised = RayTaskError(call.method, "", error, proctitle="actor", ip="here")
            call.set_exception(raised.as_instanceof_cause())
        finally:
            self.here.at_work = None

    def end(self) -> None:
        self.here.free += self.cpus if self.is_up else 0
        self.is_up, self.is_dead = False, True
        while self.calls:
            self.calls.popleft().set_exception(RayActorError(error_msg=DIED))


class RayHere:
    """Replacement of the `ray` functions that our code calls, with one node of `cpus` CPUs."""

    def __init__(self, cpus: float = 2) -> None:
        self.cpus = self.free = cpus
        self.at_work: Actor | None = None
        self.numbers = count()

    def remote(self, *of: type, num_cpus: float = 1, **_: Any) -> Any:
        if not of:
            return partial(self.remote, num_cpus=num_cpus)

        def start(*arguments: Any) -> Actor:
            return Actor(self, partial(of[0], *copied(arguments)), num_cpus, f"actor{next(self.numbers)}")

        return SimpleNamespace(options=partial(self.remote, *of), remote=start)

    def wait(self, calls: Calls, num_returns: int = 1, timeout: float | None = None) -> tuple[Calls, Calls]:
        """Let each actor do one call if none of these is answered yet; return answered and other calls."""
        for call in calls:
            if call.aside and not call.done() and call.actor.comes_up():
                call.actor.answer(call)
        if timeout != 0 and not any(call.done() for call in calls):
            for actor in dict.fromkeys(call.actor for call in calls):
                if actor.calls and actor.comes_up():
                    actor.answer(actor.calls.popleft())
            if not any(call.done() for call in calls):
                time.sleep(0.01)
        answered = [call for call in calls if call.done()][:num_returns]
        return answered, [call for call in calls if call not in answered]

    def get(self, call: ActorCall, timeout: float | None = None) -> Any:
        while not call.done():
            self.wait([call])
        return call.result()

    def nodes(self) -> list[dict[str, Any]]:
        address = {"NodeManagerAddress": "here", "NodeManagerPort": 0}
        return [{"NodeID": "here", "Alive": True, "Resources": {"CPU": self.cpus}, **address}]

    def get_runtime_context(self) -> SimpleNamespace:
        """Return the context of the running actor, whose name stands for its node, or of the driver."""
        actor = self.at_work
        return SimpleNamespace(
            gcs_address="here:0",
            get_node_id=lambda: actor.name if actor else "here",
            get_assigned_resources=lambda: {"CPU": actor.cpus} if actor else {},
        )

    def placement_group(self, bundles: Sequence[dict[str, float]]) -> SimpleNamespace:
        return SimpleNamespace(wait=lambda seconds: sum(bundle["CPU"] for bundle in bundles) <= self.free)


def copied(whole: Any) -> Any:
    return cloudpickle.loads(cloudpickle.dumps(whole))


@contextmanager
def ray_in_this_process(monkeypatch: pytest.MonkeyPatch, cpus: float = 2) -> Iterator[RayHere]:
    """Replace Ray's functions by this module's within the context."""
    here = RayHere(cpus)
    for name in ("remote", "wait", "get", "nodes", "get_runtime_context"):
        monkeypatch.setattr(ray, name, getattr(here, name))
    monkeypatch.setattr(ray, "kill", Actor.end)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": here.cpus})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": here.free})
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(cluster.driver, "SECONDS_BETWEEN_POLLS", 0.001)
    monkeypatch.setattr(actors, "placement_group", here.placement_group)
    monkeypatch.setattr(actors, "remove_placement_group", lambda group: None)
    for module in (cluster.session, actors):
        monkeypatch.setattr(module, "answers", lambda address: True)
    for name in ("log", "log_to_stderr"):  # lines of an actor's process are not the driver's
        monkeypatch.setattr(cluster.actor, name, lambda *_, **__: None)
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as an actor sets it
    monkeypatch.setattr(gc, "freeze", lambda: None)  # only an actor's own process keeps its objects
    yield here
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def ray_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayHere]:
    with ray_in_this_process(monkeypatch) as here:
        yield here
