"""A sweep as training data for others: conversations with their exits, and the card that describes them."""
