"""Conclusions from the tables of an assessment's steps: whether early exit pays, the cause, and how certain both are.

No model runs here. `conclude.conclude` reads the steps' folders and returns a `Verdict`, which
the module verdict_text puts into words.
"""
