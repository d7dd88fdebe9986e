"""What an actor does to train. It answers with numbers and text only, so that the driver need not import torch; what it
learns goes to the artefact's folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from eexit.errors import UsageError
from eexit.output.text import counted
from eexit.studies.study import Work
from eexit.training.plan import TrainingPlan


@dataclass(frozen=True)
class Advanced:
    """How far a training is; losses are the latest ones, in nats, if there are any."""

    done: bool
    share: float
    tokens: int
    loss: float | None
    held_out_loss: float | None


class TrainingWork(Work):
    """One training, which resumes inside what it has learned."""

    doing, if_memory_is_short = "training", "lower --tokens-per-step"

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan, data = plan, plan.data
        self.opening = (
            f"training {plan.settings.what} on {counted(data['n_tokens'], 'token')} of "
            f"{counted(data['n_prompts'], 'prompt')}, {counted(data['n_held_out_prompts'], 'prompt')} held out"
        )

    def load(self, device: str, memory_share: float) -> Sequence[str]:
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

        plan = self._plan
        if not plan.folder.is_dir():
            raise UsageError(
                f"node {ray.util.get_node_ip_address()} does not see {plan.folder}: give --out a folder that all "
                "nodes share"
            )
        torch.manual_seed(plan.settings.seed)
        model, _ = load_model_and_tokenizer(plan.config, device)
        model.requires_grad_(False)
        decoder = Decoder(model)
        readout = load_readout(plan.config, plan.settings.layers, decoder)
        setup = Setup(model, decoder, plan.settings, readout, plan.learn)
        trainer = TRAINERS[plan.settings.what](setup)
        self._training = Training(trainer, plan.learn, plan.held_out, plan.folder, plan.identity)
        n_before = self.reached().tokens
        return [f"{counted(n_before, 'token')} were learned from before: going on"] if n_before else []

    def advance(self, seconds: float) -> Advanced:
        """Train for about so long: on one block of texts at least."""
        self._training.advance(seconds)
        return self.reached()

    def save(self) -> None:
        """Save what was learned so far."""
        self._training.save()

    def finish(self) -> dict[str, Any]:
        """Measure what was learned on held-out texts, and write the artefact; returns its card."""
        from eexit.training.finishing import finish

        return finish(self._training, self._plan).model_dump(mode="json")

    def reached(self) -> Advanced:
        training = self._training
        losses = {
            name: next((row[name] for row in reversed(training.reached.progress) if row[name] is not None), None)
            for name in ("loss", "held_out_loss")
        }
        return Advanced(training.done, training.share, training.reached.tokens, **losses)
