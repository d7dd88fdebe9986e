"""Execution of a sweep's runs: cutting them into shards, generating and committing a shard, and the Python interface.

`plan` defines a run, `decode` decodes it, and `results` stores it. `cluster` executes the same shards on many machines.
"""
