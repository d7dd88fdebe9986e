"""Exits that learn, in closed form: readouts, probes, gates and state maps, from a sweep's texts at full depth.

Every training adds up sums over blocks of texts (`loop`) and solves regressions from them. What needs gradients is a
recipe on transformers' `Trainer` (`jobs/files/student.py`).
"""
