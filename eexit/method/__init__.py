"""Where tokens exit and what an exit leaves in the KV cache: rules, modes, readouts, probes, gates, the screen, and
stick-breaking with its draws. How layers run is in `eexit.decode`.
"""
