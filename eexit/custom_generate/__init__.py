"""What the code of others calls: settings that were taken home, which go into transformers' `custom_generate`, and the
original module's names. Both are thin over the engine.
"""
