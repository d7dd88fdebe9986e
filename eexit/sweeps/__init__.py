"""Doing a sweep's runs: cutting them into shards, a loaded model that does a shard, landing, and what Python has of it.

What a run is stands in `plan`, how it decodes in `decode`, and how its results are stored in `results`. `cluster` does
the same shards on many machines.
"""
