"""Chains of thought in follow-up prompts, cut, replaced or moved, and whether the answers need them."""
