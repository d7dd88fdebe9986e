"""What was found, as templates: each is one sentence of at most 30 words with named numbers.

The page and the terminal fill them in. Which sentences are said depends on what was found; none is put together from
parts. All numbers stand in the table beside it, most of them with further ones.
"""

from typing import Final

# Of a choice: what counts, and how it was tested.
LOSS: Final = "Loss of a prompt: {definition}."
AVERAGED: Final = "It is averaged over {seeds} first."
COUNTED: Final = "Prompts are what is counted, never tokens, and those of the same text are one."
SAME_RUNS: Final = "Of {settings}, all seeds have the same run, which counts once: nothing is left to chance."
JUDGED_BY: Final = "Judged by {judges}."
JUDGES_AVERAGED: Final = "The losses that they give a text are averaged."
NORMAL_ANSWERS: Final = "normal answers {share} of them correctly."
MOST_TO_LOSE: Final = "No more than that can be lost."
GROUPED: Final = "{prompts} belong to {groups}, each of which counts once."
GROUPS_OF_ONE: Final = "No group has two prompts, so that groups change nothing."
PILOT: Final = (
    "The order comes from {n} of a pilot, which choose nothing: {settings} that none beats in both loss and cost."
)
NORMAL_LOSES: Final = "normal itself has a mean loss of {mean}, since this sweep samples its tokens."
FAILED_IS_LOST: Final = "{runs} failed: each is a loss of 1, since no prompt may be left out."
FAILED_NORMAL: Final = "{n} of these are of normal: settings are compared with the best that it could have said."
UNJUDGED: Final = "{texts} got no usable judgement, and have the worst score, or the best as texts of normal."
ASK_AGAIN: Final = "jobs/judge.py asks for them again."
SHARED_ERROR: Final = "{families} families of settings share the error of {error}: {each} for each (Bonferroni)."
PASSED_ON: Final = "A family that is through passes its part on to the others."
STOPPED: Final = "{family} stopped at {setting}: its mean loss is {mean} over {n}."
STOPPED_WITHOUT: Final = "{family} stopped at {setting}: no prompt for choosing has a loss there."
WOULD_DO: Final = (
    "If it stays so, {enough} prompts for choosing would do with a chance of 80%, which is a sweep of about {in_all}."
)
NONE_WOULD_DO: Final = "If it stays so, no number of prompts that can be asked for would do."

# What was chosen, and how that does on prompts that chose nothing.
CHOSEN: Final = "Certified: {setting}, the cheapest that is, at {cost} of full depth: {definition}."
GUARANTEE: Final = "With {confidence} confidence, over prompts like these, {bound} is at most {at_most}."
TESTED: Final = "n = {n}, mean {mean}, p = {p}."
NONE_SAVES_ANYTHING: Final = "Certified: {settings}, but none costs less than full depth."
IS_AN_ORACLE: Final = "It is an oracle, which looks at the final layer: at run time it saves nothing."
REALISED: Final = "Realised: {times} times as fast as normal with {rows} at a time (jobs/timings.py)."
UNREALISED: Final = "How long it really takes was not measured: python jobs/timings.py RESULTS does that."
DEFENSIBLE: Final = "normal is what can be defended."
WITHOUT_LOSS: Final = "A setting without any loss would be certified with {n}."
NEAREST: Final = "The nearest, {setting}, has a mean of {mean} (n = {n}, p = {p})."
HELD_OUT: Final = "On {n} for reporting, which had no part in the choice, its mean is {mean}."
HELD_OUT_RISK: Final = "By these alone, the risk is at most {upper} with the same confidence."
ABOVE_THE_BOUND: Final = "That mean is above the bound."
CONFIRMED: Final = "They confirm the bound."
TOO_FEW_TO_CONFIRM: Final = "It is within the bound, but they are too few to confirm it by themselves."
UNCHECKED: Final = "No prompt for reporting has a loss, so that nothing checks it."
NAIVE: Final = "The naive choice, the cheapest whose mean is within the bound, is {setting}: mean {mean}, cost {cost}."
NO_GUARANTEE: Final = "It has no guarantee."
NAIVE_IS_THE_SAME: Final = "The naive choice, the cheapest whose mean is within the bound, is the same."
NAIVE_IS_NONE: Final = (
    "There is no naive choice either: no setting that costs less than full depth has a mean within the bound."
)
