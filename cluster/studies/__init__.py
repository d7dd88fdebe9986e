"""Studies that need a model, as Ray runs them: an actor that has its node or GPU for itself, or a pool."""
