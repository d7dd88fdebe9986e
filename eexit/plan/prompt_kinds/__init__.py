"""Prompts with answers, as many as are asked for: what kinds there are, the tables of facts and words that they are
made of, and how they are drawn. Prompts that were written by hand are files in `jobs/sweeps/prompts`.
"""
