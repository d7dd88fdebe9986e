"""What tokens cost in multiply-adds: what was run, and what exits need."""
