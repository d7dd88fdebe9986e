"""Does early exit pay: what is concluded from the tables of an assessment's steps, and how sure that is.

Nothing here runs a model, knows Ray, or decides what is measured. `judge.conclude` reads the folders of the steps and
gives a `Verdict` (`file`), which is `verdict.json`; `shown` prints it.
"""
