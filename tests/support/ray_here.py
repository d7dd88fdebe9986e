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
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError

import cluster.actor
import cluster.driver
import cluster.session
from cluster.studies import actors

REPLACED = (
    "remote", "wait", "get", "kill", "is_initialized", "nodes", "cluster_resources", "available_resources",
    "get_gpu_ids", "get_runtime_context",
)  # fmt: skip
DIED = "The actor died.\nThe actor is dead because its worker process has died."


class Ended(BaseException):
    """Stands for the end of an actor's process."""


@dataclass(eq=False)
class ActorCall:
    """A call of an actor, and the reference to its answer; calls `aside` do not wait for others."""

    actor: "Actor"
    method: str
    arguments: tuple[Any, ...]
    aside: bool = False
    is_answered: bool = False
    answer: Any = None
    error: Exception | None = None


@dataclass(eq=False)
class Actor:
    """An actor that comes up once there are CPUs for it, and does its calls in order."""

    here: "RayHere"
    make: Callable[[], Any]
    cpus: float
    name: str
    calls: deque[ActorCall] = field(default_factory=deque)
    made: Any = None
    is_up: bool = False
    is_dead: bool = False

    def comes_up(self) -> bool:
        if not self.is_up and not self.is_dead and self.cpus <= self.here.free:
            self.here.free, self.is_up = self.here.free - self.cpus, True
        return self.is_up

    def do_next(self) -> None:
        if self.calls and self.comes_up():
            self.do(self.calls.popleft())

    def do(self, call: ActorCall) -> None:
        self.here.at_work = self
        try:
            self.made = self.made or self.make()
            call.answer = copied(getattr(self.made, call.method)(*call.arguments))
        except Ended:
            self.calls.appendleft(call)
            self.end()
        except Exception as error:
            call.error = RayTaskError(call.method, "", error, proctitle="actor", ip="here").as_instanceof_cause()
        finally:
            self.here.at_work = None
        call.is_answered = True

    def end(self) -> None:
        self.here.free += self.cpus if self.is_up else 0
        self.is_up, self.is_dead = False, True
        for call in self.calls:
            call.is_answered, call.error = True, RayActorError(error_msg=DIED)
        self.calls.clear()


@dataclass(frozen=True)
class Handle:
    """The driver's handle of an actor."""

    actor: Actor

    def __getattr__(self, method: str) -> "Method":
        return Method(self.actor, method)


@dataclass(frozen=True)
class Method:
    actor: Actor
    name: str
    aside: bool = False

    def options(self, concurrency_group: str) -> "Method":
        return replace(self, aside=True)

    def remote(self, *arguments: Any) -> ActorCall:
        call = ActorCall(self.actor, self.name, copied(arguments), self.aside)
        if self.actor.is_dead:
            call.is_answered, call.error = True, RayActorError(error_msg=DIED)
        elif not self.aside:
            self.actor.calls.append(call)
        return call


@dataclass(frozen=True)
class ActorClass:
    here: "RayHere"
    of: type
    cpus: float = 1

    def options(self, num_cpus: float, **_: Any) -> "ActorClass":
        return replace(self, cpus=num_cpus)

    def remote(self, *arguments: Any) -> Handle:
        make = partial(self.of, *copied(arguments))
        return Handle(Actor(self.here, make, self.cpus, f"actor{next(self.here.numbers)}"))


class RayHere:
    """Replacement of the `ray` functions that our code calls, with one node of `cpus` CPUs."""

    def __init__(self, cpus: float = 2) -> None:
        self.cpus = self.free = cpus
        self.at_work: Actor | None = None
        self.numbers = count()

    def remote(self, *of: type, num_cpus: float = 1, **_: Any) -> Any:
        return ActorClass(self, of[0]) if of else lambda its: ActorClass(self, its, num_cpus)

    def wait(
        self, calls: Sequence[ActorCall], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[ActorCall], list[ActorCall]]:
        """Let each actor do one call if none of these is answered yet; return answered and other calls."""
        for call in calls:
            if call.aside and not call.is_answered and call.actor.comes_up():
                call.actor.do(call)
        if timeout != 0 and not any(call.is_answered for call in calls):
            for actor in dict.fromkeys(call.actor for call in calls):
                actor.do_next()
            if not any(call.is_answered for call in calls):
                time.sleep(0.01)
        answered = [call for call in calls if call.is_answered][:num_returns]
        return answered, [call for call in calls if call not in answered]

    def get(self, call: ActorCall, timeout: float | None = None) -> Any:
        while not call.is_answered:
            self.wait([call])
        if call.error:
            raise call.error
        return call.answer

    def kill(self, handle: Handle) -> None:
        handle.actor.end()

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        address = {"NodeManagerAddress": "here", "NodeManagerPort": 0}
        return [{"NodeID": "here", "Alive": True, "Resources": {"CPU": self.cpus}, **address}]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": self.free}

    def get_gpu_ids(self) -> list[int]:
        return []

    def get_runtime_context(self) -> "Context":
        return Context(self.at_work)


@dataclass(frozen=True)
class Context:
    """Runtime context of the running actor, or of the driver."""

    actor: Actor | None
    gcs_address: str = "here:0"

    def get_node_id(self) -> str:
        """Return the actor's name for an actor, since marks of scripted runs have it."""
        return self.actor.name if self.actor else "here"

    def get_assigned_resources(self) -> dict[str, float]:
        return {"CPU": self.actor.cpus} if self.actor else {}


@dataclass(frozen=True)
class Group:
    """Resources that an actor waits for, to be alone."""

    here: "RayHere"
    bundles: list[dict[str, float]]

    def wait(self, seconds: float) -> bool:
        return sum(bundle["CPU"] for bundle in self.bundles) <= self.here.free


def copied(whole: Any) -> Any:
    return cloudpickle.loads(cloudpickle.dumps(whole))


def end_process(code: int) -> None:
    raise Ended


@contextmanager
def ray_in_this_process(monkeypatch: pytest.MonkeyPatch, cpus: float = 2) -> Iterator[RayHere]:
    """Replace Ray's functions by this module's within the context."""
    here = RayHere(cpus)
    for name in REPLACED:
        monkeypatch.setattr(ray, name, getattr(here, name))
    monkeypatch.setattr(os, "_exit", end_process)
    monkeypatch.setattr(cluster.driver, "SECONDS_BETWEEN_POLLS", 0.001)
    monkeypatch.setattr(actors, "placement_group", partial(Group, here))
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
    """Replace Ray's functions by this module's."""
    with ray_in_this_process(monkeypatch) as here:
        yield here
