"""What a training is made from: settings that decide its result, the model, and the texts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from transformers import PreTrainedModel

from eexit.anatomy import Decoder
from eexit.readouts import Readout
from eexit.training.texts import Text

KL_FACTORS: Final = (0.5, 1.0, 2.0, 4.0)  # of a card's tables


@dataclass(frozen=True)
class Settings:
    """Everything but model and texts that the result of a training depends on. None: what suits `what`."""

    what: str
    layers: tuple[int, ...]  # exitable ones
    readout: str = "lens"  # what layers are read through: a name, or a learned readout's digest
    seed: int = 0
    passes: int | None = None  # how often to go over the texts
    tokens_per_step: int | None = None  # that a step of the optimiser learns from
    learning_rate: float | None = None
    most_tokens: int | None = None  # to learn from; passes over the same texts count again
    most_minutes: float | None = None
    kl_factor: float = 1.0  # of the distribution that a student's exits are drawn from
    lora_r: int = 8
    lora_alpha: int = 16
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def with_defaults(self, **defaults: Any) -> "Settings":
        """These settings, with `defaults` for those that are None."""
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    def as_dict(self) -> dict[str, Any]:
        """As in JSON, without those that other trainings have."""
        mine = {name: value for name, value in asdict(self).items() if value is not None}
        others = () if self.what == "student" else ("kl_factor", "lora_r", "lora_alpha", "lora_targets")
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in mine.items()
            if name not in others
        }


@dataclass(frozen=True)
class Setup:
    """What a trainer is made from. `texts` are all that it learns from, without the held-out ones."""

    model: PreTrainedModel
    decoder: Decoder
    settings: Settings
    readout: Readout  # what layers are read through
    texts: Sequence[Text]
