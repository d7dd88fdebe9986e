"""Does early exit pay: what is concluded from the tables of an assessment's steps, and how sure that is.

Nothing here runs a model, uses Ray, or decides what is measured. `conclude.conclude` reads the folders of the steps and
returns a `Verdict` (`verdict`), which is `verdict.json`; `screen` prints it.
"""
