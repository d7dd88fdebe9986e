"""What is asked for, validated once: the configuration of a sweep, its prompts, grids, splits and runs, the folders of
learned exits that it names, and what its model is. Nothing here loads weights or runs a layer.
"""
