"""Follow-up prompts with the thinking cut, replaced or shuffled, and a study of how much the answers need it."""
