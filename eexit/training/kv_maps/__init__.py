"""Closed-form training of KV maps: linear maps from the hidden state at an exit to the KV cache of skipped layers."""
