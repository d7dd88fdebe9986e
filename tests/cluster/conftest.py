"""The fixtures of this folder's tests, which `tests/support` has."""

from attention_checks import first_layers_attention_is_checked
from ray_fixtures import local_ray, no_ray_yet, ray_environment
from ray_here import ray_here
