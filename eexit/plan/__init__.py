"""Plan of a sweep, validated once: its configuration, prompts, grids, splits, runs, artefacts and model description.

Nothing here loads weights or runs a layer.
"""
