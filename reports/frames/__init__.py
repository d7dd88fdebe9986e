"""Aggregates over prompts, each with its n: what charts and tables show."""
