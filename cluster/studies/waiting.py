"""Waiting for the answer of an actor that works alone."""

from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.console import interruption
from cluster.failures import Kind, failure_of_actor, failure_of_call
from cluster.liveness import Liveness
from eexit.messages.errors import SweepStopped, UsageError

SECONDS_BETWEEN_LOOKS = 1.0


class Asking:
    """Waits for an actor's answers as long as it and Ray are alive."""

    def __init__(self, liveness: Liveness, if_memory_is_short: str) -> None:
        """`if_memory_is_short` says what to do then."""
        self._liveness, self._if_memory_is_short = liveness, if_memory_is_short

    def ask(self, ref: Any) -> Any:
        """The answer. Raises what the actor raised if it is a `UsageError`, else `SweepStopped`."""
        while not ray.wait([ref], timeout=SECONDS_BETWEEN_LOOKS)[0]:
            interruption.check()
            self._liveness.check(at_work=True)
        try:
            return ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, UsageError):
                raise error.cause from error
            failure = failure_of_call(error)
        except RayError as error:
            failure = failure_of_actor(error)
        way_out = f": {self._if_memory_is_short}" if failure.kind is Kind.MEMORY else ""
        raise SweepStopped(f"{failure.reason}{way_out}")
