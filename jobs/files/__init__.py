"""Commands that only make or convert files: prompts, training data, and results in fewer files. No model is loaded.

A notebook beside them reads the results of the demo.
"""
