"""Prompts and texts through the layers: the pass in which tokens exit, what reads them and samples from them, and the
engine that drives rows until they end. What a token's exit is decided by is in `eexit.method`.
"""
