"""The actor that replays texts with a sweep's model: a process that has a node's CPUs, or a GPU, for itself.

It is a plain class, which `cluster.studies.replay` turns into a Ray actor.
"""

from collections.abc import Sequence

from cluster.actor import device_here
from eexit.plan.configuration import Exit
from eexit.studies.replay.plan import ReplayPlan
from eexit.studies.replay.recorded import Replayed


class ReplayActor:
    """Holds one sweep's model, and the texts that are replayed."""

    def load(self, plan: ReplayPlan, device: str, threads: int) -> None:
        """Raises `UsageError` if the model can't be loaded, or does not fit what is asked of it."""
        import torch

        from eexit.studies.replay.with_model import Replayer

        torch.set_num_threads(threads)
        self._replayer = Replayer.of_sweep(plan.config, device_here(device))
        self._transcripts = plan.transcripts

    def replay(self, settings: Sequence[Exit], start: int, end: int) -> list[list[Replayed]]:
        """Some of the texts, each under these settings."""
        return [self._replayer.replay(settings, transcript) for transcript in self._transcripts[start:end]]
