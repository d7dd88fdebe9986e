"""Decoding: the pass in which tokens exit, predictors, and the engine that decodes batches and scores texts. Rules and
modes are in `eexit.method`.
"""
