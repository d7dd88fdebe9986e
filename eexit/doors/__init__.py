"""Thin doors to the engine for the code of others: the original module's names, and settings that are taken home."""
