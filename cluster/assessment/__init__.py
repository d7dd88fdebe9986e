"""Whether early exit pays, for a model on a machine: a recipe of ordinary commands of `jobs/`, and its verdict.

The conclusion from their tables is `eexit.studies.assessment`.
"""
