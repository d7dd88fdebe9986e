"""Multiply-adds: how often each part of a model ran for a token, and the part's unit cost."""
