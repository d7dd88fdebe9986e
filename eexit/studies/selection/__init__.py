"""Selection of a setting whose risk is bounded with a confidence, and its risk on prompts of the test split."""
