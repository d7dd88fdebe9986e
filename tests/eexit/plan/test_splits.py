"""The split into calibration and test prompts, and samples of each kind's share."""

from collections import Counter
from hashlib import blake2b
from random import Random
from typing import Any

from eexit.plan.splits import in_test_split, kinds, representative, sort_of
from eexit.training.texts import is_held_out

PROMPTS = [f"prompt {number}" for number in range(4000)]


def test_one_prompt_in_four_is_for_reporting_whether_or_not_it_is_held_out() -> None:
    reported = {prompt for prompt in PROMPTS if in_test_split(prompt)}
    held_out = {prompt for prompt in PROMPTS if is_held_out(prompt)}
    assert abs(len(reported) - 1000) < 82  # three standard errors
    assert abs(len(reported & held_out) - 200) < 42
    for prompt in (*PROMPTS[:50], "", "Ünïcödé 漢字"):  # which stay in it
        digest = blake2b(prompt.encode(), digest_size=8, key=b"reporting").hexdigest()
        assert in_test_split(prompt) == (int(digest, 16) % 4 == 0)


def test_the_kind_of_a_prompt_is_what_it_names_or_else_what_its_id_says_before_the_number() -> None:
    of_id = {"fact-30": "fact", "word_problem_7": "word_problem", "a/b/3": "a/b", "30": "", "recursion": "", "-3": ""}
    assert {prompt_id: sort_of(prompt_id) for prompt_id in of_id} == of_id
    named: list[dict[str, Any]] = [{"id": "fact-2", "kind": "passage"}, {"id": "4", "kind": ""}, {"id": "fact-5"}]
    assert kinds(named) == {"fact-2": "passage", "fact-5": "fact"}


def test_a_sample_has_each_kinds_share_and_is_part_of_every_larger_one_and_of_one_kind_the_hash_alone_draws() -> None:
    sizes = {"fact": 60, "sum": 40, "open": 30, "code": 25, "": 5}
    ordered = {f"{kind}-{n}" if kind else f"{n}": f"{kind} {n}" for kind, size in sizes.items() for n in range(size)}
    shuffled = dict(Random(0).sample(list(ordered.items()), len(ordered)))
    before: list[str] = []
    for n in range(len(ordered) + 1):
        drawn = representative(ordered, n)
        assert len(drawn) == len(set(drawn)) == n
        assert set(before) <= set(drawn) == set(representative(shuffled, n)), "whatever their order"
        counts = Counter(map(sort_of, drawn))
        assert all(abs(counts[kind] - n * size / len(ordered)) < 1.5 for kind, size in sizes.items())
        before = drawn
    assert Counter(map(sort_of, representative(ordered, 4))) == dict.fromkeys(("fact", "sum", "open", "code"), 1)
    assert representative(ordered, 999) == list(ordered)
    prompts = {f"{n}": text for n, text in enumerate(PROMPTS)}
    by_hash = sorted(PROMPTS, key=lambda text: blake2b(text.encode(), digest_size=8, key=b"representative").digest())
    assert {prompts[prompt_id] for prompt_id in representative(prompts, 40)} == set(by_hash[:40])
