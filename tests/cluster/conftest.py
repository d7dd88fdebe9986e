"""The fixtures of this folder's tests, which `tests/support` has."""

from ray_fixtures import local_ray, no_ray_yet, ray_environment
from ray_here import ray_here
from sweeping import environment, tiny
