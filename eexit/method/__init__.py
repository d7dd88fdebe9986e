"""Where tokens exit and what that leaves behind: rules, states, readouts, probes and the screen, the stick-breaking
draw and its uniform numbers, and how far a layer is from the final one. How layers are run is in `eexit.decode`.
"""
