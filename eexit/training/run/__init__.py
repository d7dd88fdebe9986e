"""Passes over blocks of texts, whatever is trained, and the state from which they resume."""
