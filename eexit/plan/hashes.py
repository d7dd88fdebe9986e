"""Hashes of JSON content, equal for equal content."""

import hashlib
import json


def content_hash(*content: object) -> str:
    """Return a hash of JSON values as 32 hexadecimal digits; the order of keys has no effect."""
    return checksum(content)


def checksum(content: object) -> str:
    """Return the hash of one JSON value, as in files with their own checksum."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
