"""The fixtures of this folder's tests, which `tests/support` has."""

from report_fixtures import (
    answered,
    axe,
    beside,
    browser,
    context,
    full,
    make_sweep,
    node_modules,
    report,
    some,
    tabs,
    unusual,
    visit,
    walk,
    walked,
)
