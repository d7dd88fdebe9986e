"""Plan of a sweep, without loading weights: configuration, prompts, grids, splits, runs, artefacts, model facts."""
