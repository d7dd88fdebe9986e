"""Commands that make or convert files, such as prompts and training data; only `student` loads a model.

A notebook beside them reads the results of the demo.
"""
