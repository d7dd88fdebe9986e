"""A certificate reads the same wherever it is printed: selection, package and report call one function."""

import pytest

from eexit.quality.certificate import certificate_sentences

OF_RIGHT = {"loss_of_right": 0.03, "n_of_right": 60, "p_of_right": 0.2}
OF_PROMPTS = {"loss_of_prompts": 0.054, "n_of_prompts": 813}
TESTED = {"n": 90, "mean_loss": 0.02, "p_value": 0.01} | dict.fromkeys(OF_RIGHT | OF_PROMPTS)
HOLDS = "With 95% confidence, over prompts like these, the share of prompts whose answer full depth gets right and the "
HOLDS += "setting gets wrong{} is at most 5%."
NOT_CERTIFIED = "it loses 3%, for which nothing is certified (p = 0.2)."


@pytest.mark.parametrize(
    ("further", "groups", "sentences"),
    [
        ({}, "", ["n = 90, mean 2%, p = 0.01."]),
        (OF_RIGHT, "", [
            "n = 90, mean 2%, p = 0.01.",
            f"That is of all prompts: of the 60 that full depth gets right, {NOT_CERTIFIED}",
        ]),
        (OF_RIGHT | OF_PROMPTS, ", averaged over groups of prompts that count once each,", [
            "n = 90 groups, mean 2%, p = 0.01.",
            "That is of groups: over their 813 prompts the mean is 5.4%, for which nothing is certified.",
            f"That is of all groups: of the 60 where full depth has one right, {NOT_CERTIFIED}",
        ]),
    ],
)  # fmt: skip
def test_certificate(further: dict[str, float], groups: str, sentences: list[str]) -> None:
    found = list(certificate_sentences("answers", 0.05, 0.95, {**TESTED, **further}))
    assert found == [HOLDS.format(groups), *sentences]
