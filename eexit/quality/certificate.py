"""Wording of certificates, the same where a setting is selected, in its package and in the report."""

from collections.abc import Iterator, Mapping
from typing import Any

from eexit.output.text import format_number, is_known, short_percent
from eexit.quality.risks import bound_of


def certificate_sentences(risk: str, at_most: float, confidence: float, tested: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sentences of a certificate: the guarantee, the number of prompts, and the limits of the guarantee.

    `tested` has the certified setting's fields of `eexit.results.study_tables.CHOICES`, column `tested`.
    """
    of_groups = is_known(tested["loss_of_prompts"])
    mean, p_value = short_percent(tested["mean_loss"]), format_number(tested["p_value"], ".2g")
    yield f"With {short_percent(confidence)} confidence, over prompts like these, {bound_of(risk, at_most, of_groups)}."
    yield f"n = {tested['n']:,}{' groups' * of_groups}, mean {mean}, p = {p_value}."
    if of_groups:
        yield (
            f"That is of groups: over their {tested['n_of_prompts']:,} prompts the mean is "
            f"{short_percent(tested['loss_of_prompts'])}, for which nothing is certified."
        )
    if is_known(tested["loss_of_right"]):
        loss, p_value = short_percent(tested["loss_of_right"]), format_number(tested["p_of_right"], ".2g")
        unit, right = (
            ("groups", "where full depth has one right") if of_groups else ("prompts", "that full depth gets right")
        )
        yield (
            f"That is of all {unit}: of the {tested['n_of_right']:,} {right}, it loses {loss}, for which nothing is "
            f"certified (p = {p_value})."
        )


def none_certified(risk: str, at_most: float, confidence: float, of_groups: bool = False) -> str:
    """Return the sentence in place of a certificate where no setting has one."""
    bound = bound_of(risk, at_most, of_groups)
    return f"No setting is certified with {short_percent(confidence)} confidence that {bound}."
