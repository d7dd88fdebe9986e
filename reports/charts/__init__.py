"""Frames to Altair charts, with colours, shapes and labels."""
