"""Students: an adapter that learns to say at its exits what full depth says, and probes on its streams."""
