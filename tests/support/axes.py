"""Parameters for testing each rule. A new rule needs an entry."""

from typing import Final

from transformers import PreTrainedModel

from eexit.method.rules import ExitHistogram, Parameter

EXITABLE: Final = (1, 3, 4)  # of models with seven layers


def control(*counts: int) -> ExitHistogram:
    """Return the control of a configuration with these numbers of exits, per exitable layer and at the final one."""
    return ExitHistogram("unfrozen/kl/1", tuple(zip((*EXITABLE, 6), counts, strict=True)))


# Parameters with which a rule exits now and then, on a Llama; always at the first exitable layer; or never. Empty
# if it can't.
_PARAMETERS: Final[dict[str, tuple[list[Parameter], list[Parameter], list[Parameter]]]] = {
    "kl": ([0.5, 2.0], [0.0], [1e9]),
    "agree": ([None], [], []),
    "confidence": ([0.3, 0.6], [1e-9], [1.0]),
    "margin": ([0.2, 0.5], [0.0], [1.0]),
    "entropy": ([1.5, 2.5], [1e9], [0.0]),
    "similarity": ([0.7, 0.85], [-1.0], [1.0]),
    "patience": ([2.0], [], []),
    "predicted_kl": ([0.5, 2.0], [0.0], [1e9]),
    "fixed": ([3.0, 4.0], [1.0], []),
    "random": ([control(20, 30, 0, 50)], [control(9, 0, 0, 0)], [control(0, 0, 0, 9)]),
}
SOME, ALWAYS, NEVER = ({rule: each[at] for rule, each in _PARAMETERS.items()} for at in range(3))
# Instead of SOME on other models.
ELSEWHERE: Final[dict[str, list[Parameter]]] = {
    "confidence": [0.2], "margin": [0.1], "entropy": [3.3], "similarity": [0.85], "patience": [3.0],
}  # fmt: skip
FOR_TYPE: Final[dict[str, dict[str, list[Parameter]]]] = {  # model types with flatter or more peaked random logits
    "cohere": {"confidence": [0.07]},
    "cohere2": {"kl": [1.0, 8.0], "confidence": [0.07]},
    "gemma2": {"confidence": [0.85]},
    "gemma3_text": {"kl": [0.5, 6.0], "confidence": [0.9], "margin": [0.8], "entropy": [0.7], "similarity": [0.9]},
    "gemma4_text": {"confidence": [0.16]},
    "gpt2": {"confidence": [0.3]},
    "granite": {"kl": [1.0, 6.0], "confidence": [0.07]},
    "nemotron": {"confidence": [0.5]},
}


def some(model: PreTrainedModel, rule: str) -> list[Parameter]:
    """Return parameters with which a rule exits now and then on this model."""
    if model.config.model_type == "llama":
        return SOME[rule]
    return (SOME | ELSEWHERE | FOR_TYPE.get(model.config.model_type, {}))[rule]
