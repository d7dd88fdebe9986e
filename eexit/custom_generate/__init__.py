"""Entry points for other code: packaged settings for transformers' `custom_generate`, and the original module's API."""
