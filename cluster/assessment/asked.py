"""What is asked of an assessment, and the configurations of the sweeps that it is made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from cluster.assessment.learned import ORACLE, UNALTERED, Rules, Way, exit_sets
from cluster.assessment.parts import Enough, PromptParts, drawn, split
from cluster.assessment.sizes import LOOK_TOKENS, TEXT_TOKENS
from eexit.errors import UsageError
from eexit.plan.config import NO_EXITS, Prompt, SweepConfig
from eexit.plan.configuration import EVERY, NORMAL, Exit
from eexit.plan.hashes import content_hash
from eexit.plan.validation_errors import explain

CONFIDENCE: Final = 0.95
DRAFT_TOKENS: Final = 4  # at a time
READS_ALL: Final = ("confidence", 1.0)  # reads every exitable layer, and hardly ever exits
AT_ONE_LAYER: Final = "fixed"  # the rule by which all tokens exit there
READS_KEY: Final = Exit(UNALTERED, *READS_ALL).key


@dataclass(frozen=True)
class Asked:
    """The flags of `jobs/assess.py`; without prompts, they are drawn. Raises `UsageError` for what they can't be.

    `common` are fields of a `SweepConfig` that all sweeps have: the model, and how it is loaded and read.
    """

    common: Mapping[str, Any]
    prompts: Sequence[Prompt] = ()
    minutes: float = 35.0
    margin: float = 0.02
    batches: Sequence[int] = (1, 8, 32)
    confidence: float = CONFIDENCE
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise UsageError(f"--minutes must be a number above 0, got {self.minutes:g}")
        if not 0 < self.margin < 1:
            raise UsageError(f"--margin must be above 0 and below 1, as in 0.02, got {self.margin:g}")
        try:
            self.config([Prompt("any", "any")])
        except ValidationError as error:
            flags = set(self.common)
            raise UsageError(explain(error, flags, Path("jobs/assess.py"), SweepConfig.model_fields)) from error

    @property
    def enough(self) -> Enough:
        return Enough.at(self.margin, self.confidence)

    def parts(self) -> PromptParts:
        """The prompts' parts. Raises `UsageError` if they are too few."""
        if self.prompts:
            return split(self.prompts, self.enough, self.margin)
        return drawn(self.enough, self.margin, self.seed)

    def at_layers(self, layers: Sequence[int]) -> "Asked":
        """What is asked, with tokens that may leave at these layers, unless it says itself where they may."""
        if self.common.keys() & {"exit_every", "exit_layers"}:
            return self
        return replace(self, common={**self.common, "exit_layers": tuple(layers)})

    def as_dict(self) -> dict[str, Any]:
        """All that the results depend on, as JSON has it."""
        prompts = [
            [each.id, each.prompt, each.system, each.answer, each.answer_pattern, each.group] for each in self.prompts
        ]
        return {
            **self.common,
            "prompts": content_hash(prompts) if prompts else "drawn",
            "minutes": self.minutes,
            "margin": self.margin,
            "batches": list(self.batches),
            "confidence": self.confidence,
            "seed": self.seed,
        }

    @property
    def timed_batches(self) -> tuple[int, ...]:
        """The batch sizes that are asked about, and one row, for what a step takes at the least."""
        return tuple(sorted({1, *self.batches}))

    def config(self, prompts: Sequence[Prompt], **fields: Any) -> SweepConfig:
        return SweepConfig(prompts=tuple(prompts), record_top_k=1, **{**self.common, **NO_EXITS, **fields})

    def look(self, prompts: Sequence[Prompt], layers: Sequence[int]) -> SweepConfig:
        """Exits of all tokens at each layer, a read at each layer, and drafts at the last one."""
        return self.config(
            prompts,
            modes=(NORMAL, UNALTERED),
            rules={AT_ONE_LAYER: tuple(map(float, layers)), READS_ALL[0]: (READS_ALL[1],)},
            draft=(f"{layers[-1]}:{DRAFT_TOKENS}",),
            max_new_tokens=LOOK_TOKENS,
        )

    def ceiling(self, prompts: Sequence[Prompt], way: Way, layers: Sequence[int]) -> SweepConfig:
        """What the oracle would save, read in this way, by exit set: in exact state and in the one that is deployed."""
        rules, sets = {ORACLE: ()}, exit_sets(layers)
        modes = (NORMAL, UNALTERED, way.mode)
        return self.config(prompts, modes=modes, rules=rules, exit_sets=sets, **way.fields({}))

    def drafts(self, prompts: Sequence[Prompt], layers: Sequence[int]) -> SweepConfig:
        """Drafts by the last exitable layer beside full depth, whose texts they write."""
        return self.config(prompts, modes=(NORMAL,), draft=(f"{layers[-1]}:{DRAFT_TOKENS}",), observe="final")

    def texts(self, prompts: Sequence[Prompt], n_seeds: int) -> SweepConfig:
        """Texts of the model's own, sampled, of which nothing else is recorded."""
        sampled = {"seeds": tuple(range(n_seeds)), "temperature": 1.0, "observe": "none"}
        return self.config(prompts, max_new_tokens=TEXT_TOKENS, **sampled)

    def settings(
        self, prompts: Sequence[Prompt], way: Way, rules: Rules, exit_set: str = EVERY, controls: Sequence[Any] = ()
    ) -> SweepConfig:
        """Settings beside full depth, and their controls."""
        fields = {"rules": rules, "exit_sets": (exit_set,), "controls": tuple(controls), **way.fields(rules)}
        return self.config(prompts, modes=(NORMAL, way.mode), **fields)
