"""The actor that trains: a process that has a node's CPUs, or a GPU, for itself.

It is a plain class, which `cluster.studies.training` turns into a Ray actor. It answers with numbers and text only, so
that the driver need not import torch; what it learns goes to the artefact's folder.
"""

from dataclasses import dataclass
from typing import Any

import ray

from cluster.actor import device_here
from eexit.messages.errors import UsageError
from eexit.results.store.manifest import versions
from eexit.training.plan import TrainingPlan


@dataclass(frozen=True)
class Advanced:
    """How far a training is; losses are the latest ones, in nats, if there are any."""

    done: bool
    share: float
    tokens: int
    loss: float | None
    held_out_loss: float | None


class TrainingActor:
    """Holds one training."""

    def load(self, plan: TrainingPlan, device: str, threads: int) -> Advanced:
        """Load the model and, if the training began before, what it has learned.

        Raises `UsageError` if the model can't be loaded, or the folder can't be seen from here.
        """
        import torch

        from eexit.decode.learned_exits import load_readout
        from eexit.model.decoder import Decoder
        from eexit.model.loading import load_model_and_tokenizer
        from eexit.training.run.loop import Training
        from eexit.training.setup import Setup
        from eexit.training.trainers import TRAINERS

        if not plan.folder.is_dir():
            raise UsageError(
                f"node {ray.util.get_node_ip_address()} does not see {plan.folder}: give --out a folder that all "
                "nodes share"
            )
        torch.set_num_threads(threads)
        torch.manual_seed(plan.settings.seed)
        model, _ = load_model_and_tokenizer(plan.config, device_here(device))
        model.requires_grad_(False)
        decoder = Decoder(model)
        readout = load_readout(plan.config, plan.settings.layers, decoder)
        setup = Setup(model, decoder, plan.settings, readout, plan.learn)
        trainer = TRAINERS[plan.settings.what](setup)
        self._plan = plan
        self._training = Training(trainer, plan.learn, plan.held_out, plan.folder, plan.identity)
        return self._advanced()

    def advance(self, seconds: float) -> Advanced:
        """Train for about so long: on one block of texts at least."""
        self._training.advance(seconds)
        return self._advanced()

    def save(self) -> None:
        """Save what was learned so far."""
        self._training.save()

    def finish(self) -> dict[str, Any]:
        """Measure what was learned on held-out texts, and write the artefact; returns its card."""
        from eexit.training.run.finishing import finish

        plan = self._plan
        return finish(self._training, plan.held_out, plan.model, plan.data, versions()).model_dump(mode="json")

    def _advanced(self) -> Advanced:
        training = self._training
        losses = {
            name: next((row[name] for row in reversed(training.reached.progress) if row[name] is not None), None)
            for name in ("loss", "held_out_loss")
        }
        return Advanced(training.done, training.share, training.reached.tokens, **losses)
