"""A training from its first block of texts to its artefact: passes over texts, the state that it resumes from, and what
is written at the end.
"""
