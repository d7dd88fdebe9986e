"""What a sweep stores, and how: tables with the unit and definition of each column, checksums, and the store.

Studies of a finished sweep, which add tables of their own, are in `eexit.studies`.
"""
