"""Which setting's risk is bounded, with what confidence, and what it is on prompts that chose nothing."""
