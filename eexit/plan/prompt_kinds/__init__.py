"""Kinds of prompts with answers, from which as many are drawn as are asked for. Prompts of files are no part of it."""
