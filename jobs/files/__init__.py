"""Commands that only make or convert files: prompts, training data, and results in fewer files. No model is loaded."""
