"""A transformers decoder on its own forward: finding and loading it, its chat template, visiting its layers, our cache,
and adapters merged into it. What depends on transformers' internals is here, and nowhere else.
"""
