"""Shared parts of the commands: flags and their files, the parser, the plan of a dry run, signals and exit codes."""
