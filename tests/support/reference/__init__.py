"""The naive reference: the method in plain loops, one row at a time, slow and literal. It is the specification in code,
which the batched engine has to match.
"""
