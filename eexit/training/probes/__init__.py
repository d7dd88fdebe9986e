"""Probes that predict a layer's KL from its residual stream, and their calibration."""
