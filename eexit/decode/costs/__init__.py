"""What tokens cost in multiply-adds: what was run, what exits need, and what the same exits cost on another model."""
