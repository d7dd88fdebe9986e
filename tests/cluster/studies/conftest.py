"""The fixtures of this folder's tests, which `tests/support` has."""

from sweep_fixtures import environment
