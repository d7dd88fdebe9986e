"""The fixtures of this folder's tests, which `tests/support` has."""

from ray_fixtures import ray_environment
