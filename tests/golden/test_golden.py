"""What the scripts give on small models is what it was, as far as it is the same on every machine."""

from pathlib import Path

import pytest
from golden.digests import HERE, Digests, differences, read
from golden.recording import recorded

STORED = Path(__file__).with_name("golden.json")

pytestmark = pytest.mark.slow  # minutes, and of use to changes that must not change results


@pytest.fixture(scope="module")
def now() -> Digests:
    return recorded()


def test_everything_is_as_it_was_recorded(now: Digests) -> None:
    differ = differences(read(STORED), now)
    assert not differ, "python tests/golden --help says how to see what differs, and how to record what is meant"


def test_a_record_of_this_machine_holds_more_than_the_stored_one_and_is_compared_as_a_whole(now: Digests) -> None:
    here = {name for name in now if name.endswith(HERE)}
    assert len(here) > len(read(STORED))
    changed = min(here)
    assert differences({**now, changed: ""}, now) == [changed]
    assert differences({name: digest for name, digest in now.items() if name != changed}, now) == [changed]
