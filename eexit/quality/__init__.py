"""Text quality and its uncertainty: metrics, grading, a judge's rubric, intervals and certified settings."""
