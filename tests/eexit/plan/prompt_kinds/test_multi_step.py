"""Prompts that need steps: their numbers of steps, and answers derived by other means."""

import re
from collections import Counter
from datetime import datetime, timedelta

from scipy.stats import chisquare

from eexit.plan.prompt_kinds import multi_step
from eexit.plan.prompt_kinds.generators import draw_prompts
from eexit.plan.prompt_kinds.multi_step import IN_STEPS
from eexit.plan.splits import sort_of


def test_prompts_in_steps_have_the_numbers_of_steps_that_the_docstring_says() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d to \d) \| [^|]+ \|$", multi_step.__doc__ or "", re.MULTILINE))
    drawn = draw_prompts(700, 3, IN_STEPS)
    steps = {kind.name: Counter(p.steps for p in drawn if sort_of(p.id) == kind.name) for kind in IN_STEPS}
    assert told == {name: f"{min(n)} to {max(n)}" for name, n in steps.items()}  # type: ignore[type-var]
    assert all(chisquare(list(n.values())).pvalue > 0.001 for n in steps.values())
    assert all('Think step by step, then end with "Answer:" and ' in prompt.prompt for prompt in drawn)


def test_answers_in_steps_are_those_that_follow_from_the_prompts() -> None:
    for prompt in draw_prompts(700, 4, IN_STEPS):
        told, numbers = prompt.prompt.split("\n")[0], [int(found) for found in re.findall(r"\d+", prompt.prompt)]
        match sort_of(prompt.id):
            case "sum":
                expected: object = sum(numbers)
            case "remainder":
                expected = sum(numbers[:-1]) % numbers[-1]
            case "possessions":
                expected = numbers[0]
                for buys, each, finds, gives, doubles in re.findall(
                    r"buys (\d+) packs of (\d+)|finds (\d+)|gives (\d+)|(twice)", told
                ):
                    change = int(buys or 0) * int(each or 0) + int(finds or 0) - int(gives or 0)
                    expected = expected * 2 if doubles else expected + change
                assert expected > 0
            case "swapped":
                at = dict(re.findall(r"the (\w+) in the (\w+)", told))
                for one_thing, other in re.findall(r"The (\w+) and the (\w+) change", told):
                    at[one_thing], at[other] = at[other], at[one_thing]
                expected = at[re.findall(r"is the (\w+) now", told)[0]]
            case "counted":
                letter, words = re.findall(r'"([^"]+)"', told)
                expected = Counter(words)[letter]
            case "reversed":
                expected = "".join(reversed(told.split('"')[1]))
            case _:
                day = datetime.strptime(re.findall(r"for (\d+ \w+ \d+)", told)[0], "%d %B %Y")
                moves = re.findall(r"by (\d+) (days|weeks)", told)
                expected = (day + sum((timedelta(**{unit: int(n)}) for n, unit in moves), timedelta())).day
        assert prompt.answer == str(expected), prompt
