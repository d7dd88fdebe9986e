"""Is this model computed rightly, and if not, why: everything that watches a model's own forward, grafts modules into
it, compares ours with it, and refuses what can't be run layer by layer.
"""
