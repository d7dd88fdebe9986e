"""The folder or URI of one sweep: its lease, committed shards, damaged files and manifest."""
