"""Conclusions from the tables of an assessment's steps, without a model: the verdict, its cause, and its certainty."""
