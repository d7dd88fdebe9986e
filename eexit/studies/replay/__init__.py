"""What settings that were never run would have done on the texts that are there."""
