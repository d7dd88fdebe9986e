"""What a language model behind an endpoint says of a sweep's texts."""
