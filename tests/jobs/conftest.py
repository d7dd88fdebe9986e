"""Imports this folder's fixtures. They are defined in another module, since mypy allows only one named `conftest`."""

from sweep_fixtures import at_work, command, environment, finished, max_new_tokens, n_prompts, started, tiny
