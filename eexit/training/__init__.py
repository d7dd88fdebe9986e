"""Closed-form training of readouts, probes, gates and KV maps on the full-depth texts of a sweep.

Each training adds up sums over blocks of texts (`loop`) and solves ridge regressions from these sums. Training with
gradients is a recipe on transformers' `Trainer` (`eexit student`).
"""
