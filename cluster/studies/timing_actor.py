"""The actor that times a sweep's configurations: a process that has a node's CPUs, or a GPU, for itself.

It is a plain class, which `cluster.studies.timing` turns into a Ray actor. It answers with numbers and text only, so
that the driver need not import torch.
"""

from collections.abc import Mapping
from dataclasses import asdict

from cluster.actor import device_here
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import Configuration, Generate
from eexit.results.store.manifest import versions


class TimingActor:
    """Holds one sweep's model, as the engine runs it and as transformers does."""

    def load(self, config: SweepConfig, device: str, n_tokens: int, threads: int) -> Mapping[str, object]:
        """Load the model, to time `n_tokens` tokens of each prompt; returns what is the same for all measurements.

        Raises `UsageError` if the model can't be loaded, or none of the prompts leaves room for so many tokens.
        """
        import torch

        from eexit.studies.timing.contenders import Contenders, describe_machine

        torch.set_num_threads(threads)
        self._contenders = Contenders(config, device_here(device), n_tokens)
        model = self._contenders.plain
        return {
            "model": config.model,
            "prompts": len(self._contenders.prompts),
            "prompt_ids": self._contenders.prompt_ids,
            "device": model.device.type,
            "machine": describe_machine(model.device),
            "threads": torch.get_num_threads(),
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items() if version),
            "dtype": str(model.dtype).removeprefix("torch."),
        }

    def drafts_itself(self) -> bool:
        """Whether `generate` can draft with early layers of this model."""
        from eexit.studies.timing.contenders import drafts_itself

        return drafts_itself(self._contenders.plain)

    def warm_up(self, contender: Configuration | Generate, batch: int, n_tokens: int) -> None:
        """Decode so many tokens of one batch. Raises `UsageError` if that can't be done."""
        self._contenders.warm_up(contender, batch, n_tokens)

    def time(self, contender: Configuration | Generate, batch: int) -> Mapping[str, float]:
        """Decode all prompts in batches: the columns of `study_tables.TIMINGS` that were measured."""
        return asdict(self._contenders.time(contender, batch))
