"""Schema of a sweep, validated once, from TOML, flags or Python. Each field declares a flag of `eexit sweep`.

    SweepConfig(prompts=[Prompt(id="0", prompt="Explain recursion.")], kl_factors=(0.5, 1.0))

Every field changes results. How and where a sweep is executed is in `cluster.sweep_job.SweepJob`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from eexit.method.modes import MODES
from eexit.method.rules import LOGITS, ONLINE, ORACLES, RULES
from eexit.method.screen_size import ScreenSize, screen_size, validated_screen
from eexit.plan.artefacts import FLAGS, KV_MAPS, PROBE, with_digests
from eexit.plan.configuration import EVERY, NORMAL, parse_drafts
from eexit.plan.field_types import (
    NO_MARKS,
    AnswerStart,
    Bool,
    Cell,
    Count,
    DType,
    Float,
    Int,
    Pattern,
    Seed,
    Text,
    Thinking,
    Whole,
)  # fmt: skip
from eexit.plan.grid_types import (
    KL_FACTORS,
    MAPPING,
    ControlSpec,
    Drafts,
    ExitLayers,
    ExitSets,
    GateThresholds,
    Modes,
    Rules,
    distinct,
    with_kl_factors,
)  # fmt: skip

AUTO_DTYPE: Final = "auto"  # until a sweep begins; its manifest has the resolved dtype
Observe = Literal["all", "final", "none"]  # layers at which the full-depth pass reads finished texts
GATE_THRESHOLDS: Final = (0.1,)
SHORT_FIELDS: Final[Mapping[str, FieldInfo]] = {
    KL_FACTORS: FieldInfo.from_annotated_attribute(
        tuple[float, ...], Field((), description="KL factors of rule kl, short for --rules kl=…; higher exits later")
    )
}
COMPUTED: Final = ("digests", "shown_names")  # fields that no user gives
# Fields by which a sweep can grow: prompts, configurations and seeds.
GRID: Final = frozenset({
    "prompts", "modes", "rules", "draft", "controls", "seeds", "exit_sets", "gate_thresholds", "prompt_exits", "only",
    "shown_names",
})  # fmt: skip
# Replacement of a sweep's grid: full depth alone, without the artefacts that exits use.
NO_EXITS: Final[Mapping[str, Any]] = {
    "modes": (NORMAL,), KL_FACTORS: (), "rules": {}, "controls": (), "draft": (), "only": (),
    "probe": None, "gate": None, "gate_thresholds": GATE_THRESHOLDS, "kv_maps": None, "prompt_exits": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Prompt:
    """One prompt, with slots since a sweep may have a million.

    `system`, `prefiller` and `max_new_tokens` default to the sweep's. `steps` is the number of steps to the answer.

    Texts are graded if there is an `answer` or an `answer_pattern` (`eexit.quality.grading`). Prompts that depend on
    each other, such as variants of one question, share a `group`, which counts once. Results are broken down by `kind`
    (`eexit.plan.splits.kinds`).
    """

    id: Text
    prompt: Text
    system: Text | None = None
    answer: Cell = None
    answer_pattern: Pattern = None
    group: Cell = None
    kind: Cell = None
    prefiller: Text | None = None
    max_new_tokens: Whole = None
    steps: Whole = None


class SweepConfig(BaseModel):
    """Grid of a sweep, and everything else that the result of a run depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Text = Field("smollm2-135m", description="smollm2-135m, a Hugging Face name, a local folder or a .gguf file")
    revision: Text | None = Field(None, description="branch, tag or commit of a Hugging Face name")
    trust_remote_code: Bool = Field(False, description="run Python code from the model's repository")
    dtype: DType = Field(
        AUTO_DTYPE, description="auto: bfloat16 where the hardware computes in it natively, and with int4; else float32"
    )
    quantize: Literal["int8", "int4"] | None = Field(
        None, description="int8 or int4: quantise the layers' weights at loading (torchao, weight-only)"
    )
    prompts: tuple[Prompt, ...] = Field(min_length=1)
    system: Text = Field("", description="system prompt of prompts without their own")
    prefiller: Text = Field("", description="first words of every text, which the model continues")
    control_tokens: Bool = Field(
        False, description="parse control tokens such as <|im_start|> in prompts; otherwise they are plain text"
    )
    modes: Modes = Field(
        (NORMAL, "unfrozen", "frozen_residual"),
        description=f"KV cache of skipped layers: {NORMAL} (no exits), {', '.join(MODES)}",
    )
    rules: Rules = Field(
        {"kl": (0.5, 1.0, 2.0, 4.0)},
        description=f"exit rules with their parameters, as in kl=0.5,1 agree: {', '.join(RULES)}",
    )
    draft: Drafts = Field(
        (),
        description="LAYER:N, as in 20:4 or 10,20:2,4: draft N tokens at a layer, verify them at full depth; the text "
        "is that of normal",
    )
    controls: tuple[ControlSpec, ...] = Field(
        (), description="configurations of rule random, each with the exit layers of another"
    )
    only: tuple[Text, ...] = Field((), description="run only these configurations of the grid, by key (default: all)")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(distinct)] = Field(
        (0,), description="random seeds for exits and sampling; one run per seed"
    )
    exit_layers: ExitLayers | None = Field(None, description="exitable layers, 0-based, below the final layer")
    exit_every: Count = Field(
        5, ge=1, description="without --exit-layers: exitable are the layers l > 0 with l % N == 0"
    )
    exit_sets: ExitSets = Field(
        (EVERY,),
        description="exitable layers that a rule reads and exits at, as in 25 20,25 all; one configuration per set",
    )
    prompt_exits: Bool = Field(
        False,
        description="prompt tokens and the first generated token exit by the rule too, as in unfrozen/kl/1+prompt; "
        "otherwise prefill runs at full depth",
    )
    readout: Text = Field(
        "lens",
        description="lens: final norm and lm_head; raw: lm_head alone; or a folder from eexit train or tuned-lens",
    )
    probe: Text | None = Field(None, description="folder of a trained probe, for rule predicted_kl")
    adapter: Text | None = Field(
        None, description="folder of an adapter for the early-exit pass; normal runs without it"
    )
    gate: Text | None = Field(None, description="folder of a trained gate, which selects the layers that a rule reads")
    gate_thresholds: GateThresholds = Field(
        GATE_THRESHOLDS,
        description="read a layer only if the gate predicts at least this exit probability; 0: read every layer",
    )
    kv_maps: Text | None = Field(None, description=f"folder of trained KV maps, for mode {' or '.join(MAPPING)}")
    digests: dict[Text, Text] = Field({}, description="SHA-256 of the artefacts; computed")
    shown_names: dict[Text, Text] = Field(
        {}, description="names in files → names of custom rules and modes that were redefined; computed"
    )
    screen: Annotated[Text | None, AfterValidator(validated_screen)] = Field(
        None,
        description="RANK:TOKENS, as in 32:256: rules decide by the tokens that a low-rank approximation of the LM "
        "head ranks highest; generated tokens are read from the whole head (default: rules read the whole head)",
    )
    max_new_tokens: Count = Field(100, ge=1, description="maximum number of tokens per run")
    thinking: Thinking | None = Field(
        None,
        description="tags that open and close the chain of thought, as in <think> </think> (default: the model's, "
        f"from its chat template or vocabulary); {NO_MARKS}: texts are all answer",
    )
    thinking_until: AnswerStart | None = Field(
        None,
        description="regular expression that begins the answer of a model that thinks in plain words, as in "
        "(?i)answer:; the text before its first match is the chain of thought",
    )
    temperature: Float = Field(0.0, ge=0, allow_inf_nan=False, description="sampling temperature; 0: greedy")
    top_p: Float = Field(1.0, gt=0, le=1, description="probability of the sampled nucleus; needs a temperature above 0")

    record_top_k: Int = Field(3, ge=0, le=100, description="top tokens to record per token and exitable layer; 0: none")
    record_full_depth: Observe = Field(
        "all",
        description="full-depth predictions to record of texts: at all exitable layers (all), at the final layer "
        "(final: disagreement, perplexity), or none (texts and answers)",
    )

    @property
    def exits(self) -> frozenset[str]:
        """Names of the rules and modes, including those of controls."""
        return frozenset({*self.rules, *self.modes, *(control.mode for control in self.controls)})

    def limit_of(self, prompt: Prompt) -> int:
        """Return the maximum number of tokens that a run of this prompt may generate."""
        return prompt.max_new_tokens or self.max_new_tokens

    def system_of(self, prompt: Prompt) -> str:
        """Return the system prompt of this prompt, by default the sweep's."""
        return self.system if prompt.system is None else prompt.system

    def prefiller_of(self, prompt: Prompt) -> str:
        """Return the text with which the answer to this prompt starts, by default the sweep's."""
        return self.prefiller if prompt.prefiller is None else prompt.prefiller

    @property
    def most_new_tokens(self) -> int:
        """Maximum number of tokens that any run may generate."""
        return max(map(self.limit_of, self.prompts))

    @property
    def screen_size(self) -> ScreenSize | None:
        """Size of the screen by which rules decide; None without one."""
        return screen_size(self.screen)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Move KL factors among the rules, and add missing digests of artefacts, on which results depend."""
        return with_digests(with_kl_factors(given)) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        repeated = [name for name, count in Counter(prompt.id for prompt in self.prompts).items() if count > 1]
        if repeated:
            raise ValueError(f"prompt ids must be unique, {repeated[0]!r} is there more than once")
        _refuse_rules(self)
        _refuse_artefacts(self)
        _refuse_decoding(self)
        return self


def _refuse_rules(config: SweepConfig) -> None:
    """Raise `ValueError` for rules without the predictions that they read, and for modes without a rule."""
    exits = set(config.modes) != {NORMAL}
    if exits and not config.rules and not config.draft:
        raise ValueError("there are no kl_factors and no rules, but only mode normal can do without one")
    if config.prompt_exits and not (exits and config.rules):
        raise ValueError("prompt_exits has no effect: give a mode and a rule that exit, as in --modes unfrozen")
    oracles = [name for name in ORACLES if exits and name in config.rules]
    if oracles and config.record_full_depth != "all":
        raise ValueError(
            f"rule {oracles[0]} decides by what the full-depth model predicts at every exitable layer, which "
            f"--record-full-depth {config.record_full_depth} leaves out: give --record-full-depth all, or other rules"
        )
    if config.screen and (wanting := [name for name in config.rules if LOGITS in RULES[name].needs]):
        raise ValueError(
            f"rule {wanting[0]} reads the logits of all tokens, and screen {config.screen} gives those of some: leave "
            "--screen out"
        )


def _refuse_artefacts(config: SweepConfig) -> None:
    """Raise `ValueError` for a rule or mode without its artefact, and for an artefact that nothing uses."""
    online = [ONLINE[name] for name in config.rules if name in ONLINE]
    probing = [f"rule {rule.name} reads a trained probe" for rule in online if rule.needs_probe]
    modes = (*config.modes, *(control.mode for control in config.controls))
    mapping = [f"mode {mode} uses trained KV maps" for mode in modes if mode in MAPPING]
    for role, users, way_out in (
        (PROBE, probing, "a rule that reads it, as in predicted_kl=1"),
        (KV_MAPS, mapping, f"mode {' or '.join(MAPPING)}"),
    ):
        location = getattr(config, role)
        if users and location is None:
            raise ValueError(f"{users[0]}: give {FLAGS[role]}, a folder that eexit train made")
        if location is not None and not users:
            raise ValueError(f"{role} {location} has no effect: give {way_out}")
    reading = [rule for rule in online if rule.needs_distribution]
    if config.gate is None and config.gate_thresholds != GATE_THRESHOLDS:
        raise ValueError("gate_thresholds have no effect: give --gate, a folder that eexit train made")
    if config.gate is not None and not reading:
        raise ValueError(f"gate {config.gate} has no effect: give a rule that reads layers, as in confidence=0.97")
    if config.gate is not None and not config.only and (comparing := [rule for rule in reading if rule.needs_history]):
        raise ValueError(f"rule {comparing[0].name} compares all layers of its set, so that no gate can pass one over")


def _refuse_decoding(config: SweepConfig) -> None:
    """Raise `ValueError` for ways of thinking, sampling and drafting that contradict each other."""
    if config.thinking is not None and config.thinking_until is not None:
        raise ValueError(
            f"thinking {' '.join(config.thinking)} and thinking_until {config.thinking_until} both mark the chain of "
            f"thought: give one of them"
        )
    if config.top_p < 1 and config.temperature == 0:
        raise ValueError(f"top_p {config.top_p} has no effect at temperature 0: set a temperature above 0")
    if config.draft and config.temperature > 0:
        raise ValueError(f"draft {config.draft[0]} is greedy, and temperature is {config.temperature:g}: set it to 0")
    most = min(map(config.limit_of, config.prompts))
    for draft in (draft for text in config.draft for draft in parse_drafts(text)):
        if draft.n_tokens > most:
            raise ValueError(
                f"draft {draft} is of more tokens than a run has at most (max_new_tokens {most}): draft fewer"
            )
