"""Replays: exits of configurations that were never run, on the given texts of a finished sweep."""
