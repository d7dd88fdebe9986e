"""Hashes that say whether two things have the same content."""

import hashlib
import json


def content_hash(*content: object) -> str:
    """Of anything that JSON can hold, as 32 hexadecimal digits; the order of keys does not matter."""
    return checksum(content)


def checksum(content: object) -> str:
    """The same of one thing, as the files have it that hold their own checksum."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
