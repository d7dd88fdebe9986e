"""Kinds of prompts with answers, which can be drawn in any number. Prompt files are in `eexit.plan.prompts`."""
