"""The fixtures of this folder. They are in a module of its own name, since mypy knows one `conftest` only."""

from sweep_fixtures import at_work, command, environment, finished, max_new_tokens, n_prompts, started, tiny
