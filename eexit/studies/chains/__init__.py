"""Follow-up prompts with the thinking cut, replaced or shuffled, and a study of necessity: how much answers need it."""
