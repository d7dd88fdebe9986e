"""The folder or URI that holds one sweep: who may write, what has landed, what is damaged, and what it was made
from."""
