"""What is stored, and how: the tables with every column's unit and meaning, files with checksums, and the store of one
sweep. Studies of a finished sweep, which add tables of their own, are in `eexit.studies`.
"""
