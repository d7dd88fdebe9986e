"""The fixtures of this folder's tests, which `tests/support` has."""

from ray_fixtures import local_ray, no_ray_yet, ray_environment
from ray_here import ray_here
from report_fixtures import beside, full, make_sweep, report
from sweeping import at_work, command, environment, finished, started, tiny
