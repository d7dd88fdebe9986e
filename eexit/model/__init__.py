"""A transformers decoder on its own forward: finding and loading it, its chat template, visits of its layers, a cache
of keys and values, and adapters merged into it. What depends on transformers' internals is here, and nowhere else.
"""
