"""Exits that learn: readouts, probes and students, trained on the texts that a sweep's model wrote at full depth."""
