import pytest
from assessing import make_small
from finished_assessments import RULES, paying

from cluster.assessment import learned

__all__ = ["paying"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.fixture
def two_rules(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in what `paying` has finished."""
    monkeypatch.setattr(learned, "RULES", RULES)
