"""Does early exit pay, for one model on one machine: a recipe of ordinary commands, its sizes, and the verdict.

What is concluded from their tables, and how sure it is, is `eexit.studies.assessment`; the commands are those of
`jobs/`.
"""
