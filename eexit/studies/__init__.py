"""Studies of a finished sweep, a folder for each: its plan, its work and its closing table.

`study.py` is their interface. `cluster.studies` executes them, and the assessment in `cluster.assessment` runs many.
"""
