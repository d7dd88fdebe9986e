"""A sweep as training data for others."""
