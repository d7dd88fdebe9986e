"""What was found, in sentences: of the sweep, of quality, of savings, of learned exits, drafts and choices."""
