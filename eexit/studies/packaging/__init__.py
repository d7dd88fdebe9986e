"""Packages: self-contained folders with one setting of a sweep, which `eexit.load` makes callable."""
