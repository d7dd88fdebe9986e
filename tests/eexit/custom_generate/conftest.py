"""The fixtures of this folder's tests, which `tests/support` has."""

from attention_checks import first_layers_attention_is_checked
