"""Imports this folder's fixtures. They are defined in another module, since mypy allows only one named `conftest`."""

from ray_fixtures import local_ray, ray_environment
