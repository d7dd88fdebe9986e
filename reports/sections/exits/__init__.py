"""Exits of tokens: at which layers, by the parameters of rules, and along the text."""
