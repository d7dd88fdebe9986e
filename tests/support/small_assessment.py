"""`jobs/assess.py` with the small recipe of `assessing`, as a process: `python small_assessment.py FLAGS`."""

import sys

import pytest
from assessing import make_small

from jobs import assess

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        sys.exit(assess.main(sys.argv[1:]))
