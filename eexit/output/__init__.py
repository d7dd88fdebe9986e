"""Output of commands: text of numbers and counts, URIs without secrets, logs, progress, table style and atomic writes.

Messages stand in the modules that print them.
"""
