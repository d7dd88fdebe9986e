"""From residual streams to distributions, and from these to tokens."""
