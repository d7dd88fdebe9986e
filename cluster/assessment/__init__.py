"""Assessment of whether early exit pays for a model on a machine: a recipe of commands of `jobs/`, and a verdict."""
