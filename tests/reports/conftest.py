"""Imports this folder's fixtures. They are defined in another module, since mypy allows only one named `conftest`."""

from report_fixtures import axe, beside, browser, context, full, make_sweep, node_modules, report, unusual, visit, walk
