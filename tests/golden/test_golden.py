"""What the scripts give on small models is what it was, as far as it is the same on every machine."""

from pathlib import Path

from golden.digests import HERE, differences, everywhere, read
from golden.recording import recorded

STORED = Path(__file__).with_name("golden.json")


def test_everything_is_as_it_was_recorded() -> None:
    now = recorded()
    assert any(name.endswith(HERE) for name in now)
    differ = differences(read(STORED), now)
    assert not differ, "python tests/golden --help says how to see what differs, and how to record what is meant"
    assert everywhere(now).keys() == read(STORED).keys()
