"""The pass in which tokens leave: which tokens are computed, who decides, and what exits leave behind for later tokens."""
