"""What was learned, loaded for a model: readouts, gates, probes and state maps; and what a screen is fitted with."""
