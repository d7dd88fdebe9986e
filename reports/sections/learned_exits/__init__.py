"""The overview's section "Learned exits": what was trained on which data, what it changed, and where it is no help."""
