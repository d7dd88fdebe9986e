import pytest
from assessing import make_small
from finished_assessments import paying

__all__ = ["paying"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
