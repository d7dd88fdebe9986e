"""The split into prompts that choose and prompts that are reported on."""

from hashlib import blake2b

from eexit.splits import for_reporting
from eexit.training.texts import is_held_out

PROMPTS = [f"prompt {number}" for number in range(4000)]


def test_one_prompt_in_four_is_for_reporting_whether_or_not_it_is_held_out() -> None:
    reported = {prompt for prompt in PROMPTS if for_reporting(prompt)}
    held_out = {prompt for prompt in PROMPTS if is_held_out(prompt)}
    assert abs(len(reported) - 1000) < 82  # three standard errors
    assert abs(len(reported & held_out) - 200) < 42


def test_the_split_is_that_of_the_hash_and_stays_so() -> None:
    for prompt in (*PROMPTS[:50], "", "Ünïcödé 漢字"):
        digest = blake2b(prompt.encode(), digest_size=8, key=b"reporting").hexdigest()
        assert for_reporting(prompt) == (int(digest, 16) % 4 == 0)
