"""Trainers of probes and gates, which are linear in a layer's hidden state, and their calibration."""
