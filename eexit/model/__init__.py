"""A transformers decoder on its own forward: loading, chat template, visits of its layers, KV cache and adapters.
All that depends on transformers' internals is here.
"""
