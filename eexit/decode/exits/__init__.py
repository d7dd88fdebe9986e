"""The pass in which tokens leave: what decides that, and what their exits leave behind for later tokens."""
