"""What several sections use: frames over prompts, measures, colours, parts of charts and figures, numbers as text."""
