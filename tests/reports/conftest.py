"""The fixtures of this folder. They are in a module of its own name, since mypy knows one `conftest` only."""

from report_fixtures import axe, beside, browser, context, full, make_sweep, node_modules, report, unusual, visit, walk
