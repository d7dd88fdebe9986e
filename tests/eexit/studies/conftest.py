"""The fixture of this folder's tests, which `tests/support` has."""

from ray_here import ray_here
