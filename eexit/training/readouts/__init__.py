"""Learned readouts: a linear map in closed form, and the tuned lens."""
