"""Is this model computed rightly, and if not, why: everything that watches a model's own forward, compares ours with
it, and refuses what can't be run layer by layer.
"""
