"""What tokens cost in multiply-adds: what was run, what exits need, and what each part of a model costs."""
