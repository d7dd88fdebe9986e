"""Execution of the studies of `eexit.studies`, and of trainings, which keep more than rows.

Work runs in this process, in one Ray actor that has a node's CPUs or a GPU to itself, or in a pool of actors.
"""
