"""A transformers decoder, layer by layer: finding and loading it, its chat template, its layers with our cache and
attention, and adapters merged into it. What depends on transformers' internals is here, and nowhere else.
"""
