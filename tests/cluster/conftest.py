"""The fixtures of this folder. They are in a module of its own name, since mypy knows one `conftest` only."""

from ray_fixtures import local_ray, ray_environment
